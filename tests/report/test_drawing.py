from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree

from nexus.report.drawing import COLOURS, INK, canvas, styled, svg


def drawn(description: str) -> str:
    with styled():
        figure, axes = canvas()
        axes.plot([0, 1], [0, 1], color=COLOURS[0], marker="D")
        return svg(figure, description)


def test_colours_are_the_pages_and_words_are_text() -> None:
    found = drawn("a <b> & c")
    assert ElementTree.fromstring(found).get("aria-label") == "a <b> & c"
    assert "var(--c0)" in found and COLOURS[0].lower() not in found and INK not in found


def test_two_figures_of_a_page_share_no_id() -> None:
    ids = [set(re.findall(r' id="([^"]*)"', drawn(name))) for name in ("one", "two")]
    named = [{each for each in found if re.match(r"[mp][0-9a-f]{8}", each)} for found in ids]
    assert named[0] and not named[0] & named[1]
