"""The page in headless Chromium, where that is installed."""

from __future__ import annotations

import html
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from nexus.report.build import build

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")

HARNESS = """<!doctype html><title>waiting</title><iframe width="{width}" height="900"></iframe>
<script>
const frame = document.querySelector("iframe");
frame.onload = () => {{
  const page = frame.contentDocument.documentElement;
  document.title = "page is " + page.scrollWidth + " of " + page.clientWidth;
}};
frame.srcdoc = document.createRange().createContextualFragment("<p>{page}</p>").textContent;
</script>"""


def opened(page: Path, profile: Path) -> tuple[str, str]:
    """The page's document after loading, and what the browser logged; any request would fail."""
    done = subprocess.run(
        [
            str(CHROMIUM), "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            "--proxy-server=127.0.0.1:9", "--enable-logging=stderr", "--v=0",
            f"--user-data-dir={profile}", "--virtual-time-budget=3000", "--dump-dom",
            page.as_uri(),
        ],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    return done.stdout, done.stderr


def test_the_page_opens_without_a_word_of_complaint(run: Path, tmp_path: Path) -> None:
    document, log = opened(build(run), tmp_path / "profile")
    assert "What is left of the teacher" in document
    assert not re.search(r"CONSOLE|ERR_|Refused to", log), log


@pytest.mark.parametrize("width", [375, 1280])
def test_no_page_is_wider_than_its_window(run: Path, tmp_path: Path, width: int) -> None:
    """Take `overflow-x: auto` off `.scroll` in style.css to see it fail."""
    source = html.escape(build(run).read_text(encoding="utf-8")).replace("\\", "\\\\")
    harness = tmp_path / "harness.html"
    text = HARNESS.format(width=width, page=source.replace("\n", "\\n"))
    harness.write_text(text, encoding="utf-8")
    document, _ = opened(harness, tmp_path / "profile")
    found = re.search(r"page is (\d+) of (\d+)", document)
    assert found is not None, document[:300]
    assert found[1] == found[2]
    assert width - 25 <= int(found[2]) <= width
