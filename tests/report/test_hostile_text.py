"""Whatever strangers write stays text: in the page, in the model card and in the terminal.

`tests/hostile_strings.py` has the strings. The page with them must be built of exactly the elements
and attributes that it has with a harmless word in their places.
"""

from __future__ import annotations

import io
import json
import re
import runpy
import unicodedata
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from nexus.findings import Finding, note
from nexus.proofs import Check, Proof
from nexus.report.build import render
from nexus.report.card import model_card
from nexus.report.diagnosis import diagnose
from nexus.report.reading import read_run
from nexus.report.table import retention_table
from nexus.results import Comparison, Estimate, Evaluation, Refused, Sample, TaskResult
from nexus.training.progress import View

ALL = runpy.run_path(str(Path(__file__).parents[1] / "hostile_strings.py"))
STRINGS: list[str] = list(ALL["HOSTILE"].values())
WRITABLE = [text for text in STRINGS if text.encode("utf-8", "ignore").decode() == text]
"""A JSON file in UTF-8 can hold no half characters."""

OURS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
"""What rich itself writes to a terminal."""


class Structure(HTMLParser):
    """Elements with the names of their attributes, addresses, and all text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, ...]] = []
        self.addresses: list[str] = []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, *(name for name, _ in attrs)))
        self.addresses += [
            value or ""
            for name, value in attrs
            if name.endswith(("href", "src", "action", "data", "srcset", "background"))
        ]

    def handle_endtag(self, tag: str) -> None:
        self.elements.append((f"/{tag}",))

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_comment(self, data: str) -> None:
        self.elements.append(("comment",))


def write(run: Path, evaluation: Evaluation, texts: list[str]) -> Evaluation:
    """Put the texts wherever a stranger could: models, users, files, data."""
    some = ["".join(texts[at :: len(texts) // 16 or 1]) for at in range(len(texts) // 16 or 1)]
    spoilt = evaluation.model_copy(
        update={
            "samples": tuple(Sample(prompt=one, teacher=one, student=one) for one in texts),
            "heldout": evaluation.heldout.model_copy(  # type: ignore[union-attr]
                update={"gap_closed": {"forward_kl": Refused(reason=" ".join(texts))}}
            ),
            "speed": evaluation.speed.model_copy(  # type: ignore[union-attr]
                update={"device": texts[0], "left_out": tuple(some)}
            ),
            "tasks": {f"t{number}{one}": task(one) for number, one in enumerate(some)},
        }
    )
    spoilt.save(run)
    Check(proofs=tuple(proofs(some)), seconds=1.0).save(run)
    (run / "findings.json").unlink(missing_ok=True)
    for number, text in enumerate(some[:4]):
        note(run, Finding(text, number, text, f"Training goes back: {text}"))
    source = {"rows": 1, "skipped_rows": []}
    environment = {
        "notices": texts,
        "data": {f"train: s{number}{one}": source for number, one in enumerate(texts)}
        | {"train: rejected": {"rows": 1, "skipped_rows": texts}},
        "versions": {f"v{number}{one}": one for number, one in enumerate(texts)},
        "list": [texts],
    }
    (run / "environment.json").write_text(json.dumps(environment), encoding="utf-8")
    recipe = {
        "output": texts[0],
        "teacher": {"kind": "local", "model": f"a{''.join(texts)[:3000]}z".replace("/", "∕")},
        "student": {"kind": "layers", "count": "".join(texts)[:3000]},
    }
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return spoilt


def task(text: str) -> TaskResult:
    """One that the teacher cannot do and the student forgot, so that rules speak of it by name."""
    return TaskResult(
        kind=text,
        metric=text,
        items=100,
        chance=0.5,
        scores={model: {text: SCORE, f"{text} too": SCORE} for model in ("teacher", "trained")},
        unanswered={"teacher": 0, "trained": 50},
        teacher_above_chance=False,
        retention={"raw": Refused(reason=text), text: Refused(reason=text)},
        comparisons={
            "trained - untrained": Comparison(difference=LOSS, gained=0, lost=20, p_value=0.001)
        },
    )


SCORE = Estimate(value=0.5, low=0.4, high=0.6, n=100, unit="share")
LOSS = Estimate(value=-0.2, low=-0.3, high=-0.1, n=100, unit="share")


def proofs(texts: list[str]) -> Iterator[Proof]:
    for outcome in ("proved", "failed"):
        for text in texts:
            yield Proof(group=text, name=text, outcome=outcome, detail=text, remedy=text)


@pytest.fixture
def pages(run: Path, evaluation: Evaluation) -> tuple[str, str]:
    write(run, evaluation, ["harmless"] * len(WRITABLE))
    environment = json.loads((run / "environment.json").read_text())
    assert len(environment["versions"]) == len(WRITABLE)
    harmless = render(read_run(run))
    write(run, evaluation, WRITABLE)
    return harmless, render(read_run(run))


def test_the_corpus_is_large() -> None:
    assert len(STRINGS) >= 200 and len(WRITABLE) >= 190


def test_the_page_is_built_of_its_own_elements_only(pages: tuple[str, str]) -> None:
    """Make `_shown` in build.py return `Markup(value)` to see it fail."""
    harmless, hostile = Structure(pages[0]), Structure(pages[1])
    assert hostile.elements == harmless.elements
    names = {name for element in hostile.elements for name in element[1:]}
    tags = {element[0] for element in hostile.elements}
    assert not [name for name in names if name.startswith("on")]
    assert not tags & {"script", "iframe", "object", "embed", "base", "link", "form", "img"}
    assert all(address.startswith("#") for address in hostile.addresses)


def test_every_place_of_a_stranger_is_tried(run: Path, evaluation: Evaluation) -> None:
    """A mark put wherever `write` puts texts is found in each section of the page."""
    write(run, evaluation, ["@mark@"] * 2)
    page = render(read_run(run))
    places = ("tasks", "economy", "samples", "checks", "next", "data")
    sections = {place: page.split(f'id="{place}"', 1)[1].split("<h2", 1)[0] for place in places}
    assert [place for place, html in sections.items() if "@mark@" not in html] == []
    symptoms = [s for s in diagnose(read_run(run)) if "@mark@" in s.evidence]
    assert len(symptoms) >= 3


def test_the_page_forbids_scripts_and_addresses(pages: tuple[str, str]) -> None:
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', pages[1])
    assert policy is not None
    rules = dict(rule.strip().split(" ", 1) for rule in policy[1].split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["style-src"] == "'unsafe-inline'"
    assert set(rules) <= {"default-src", "style-src", "img-src", "base-uri", "form-action"}
    assert pages[1].index("Content-Security-Policy") < pages[1].index("<title>")


def test_the_page_shows_what_hides(pages: tuple[str, str]) -> None:
    shown = Structure(pages[1]).text
    assert not [c for c in shown if unicodedata.category(c) in ("Cc", "Cf") and c not in "\n\t"]
    for code in ("202E", "200B", "FEFF", "001B", "E006F", "2066"):
        assert f"⟨U+{code}⟩" in shown


def test_names_of_curves_are_drawn_as_they_are(run: Path, evaluation: Evaluation) -> None:
    def page(names: list[str]) -> Structure:
        steps = [
            {"stage": "s", "step": step, "loss": 1.0, "terms": dict.fromkeys(names, 1.0 + step)}
            for step in range(1, 4)
        ]
        lines = "".join(json.dumps(step) + "\n" for step in steps)
        (run / "metrics.jsonl").write_text(lines, encoding="utf-8")
        return Structure(render(read_run(run)))

    hostile = page(["$x_{$", "_hidden", *ALL["MARKUP"].values()][:12])
    assert {element[0] for element in hostile.elements} <= {
        element[0] for element in page(["a", "b"]).elements
    }
    assert not [name for element in hostile.elements for name in element[1:] if name[:2] == "on"]


def test_the_model_card_holds_no_markup_of_others(run: Path, evaluation: Evaluation) -> None:
    """Neither in its front matter, nor beyond the fence of the recipe."""
    write(run, evaluation, WRITABLE)
    card = model_card(run)
    assert not [c for c in card if unicodedata.category(c) in ("Cc", "Cf") and c not in "\n\t"]
    _, front, body = card.split("---\n", 2)
    assert yaml.safe_load(front)["library_name"] == "transformers"
    before, fence, after = body.partition("```yaml\n")
    recipe, end, after = after.partition("```")
    assert fence and end and after.strip().startswith("Made with Nexus")
    for part in (before, after):
        plain = re.sub(r"\\.", "", part)
        assert not re.search(r"https?:|www\.", plain), plain
        assert not re.search(r"<[a-z/!]|\]\(|!\[", plain.replace("<!-- -->", "")), plain
    headings = [line for line in before.splitlines() if line.startswith("#")]
    assert len(headings) == 6


@pytest.mark.parametrize("width", [60, 120])
def test_the_table_steers_no_terminal(run: Path, evaluation: Evaluation, width: int) -> None:
    spoilt = write(run, evaluation, WRITABLE)
    console = Console(
        file=io.StringIO(), force_terminal=True, width=width, color_system="truecolor"
    )
    console.print(retention_table(spoilt))
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    rest = OURS.sub("", printed)
    assert not [c for c in rest if unicodedata.category(c) in ("Cc", "Cf", "Cs") and c != "\n"]
    assert "\x1b]" not in printed and "\x1b[31m" not in printed
    assert "[bold" in rest and "red]alert" in rest.replace("\n", " ").replace("  ", " ")


@pytest.mark.parametrize("terminal", [True, False])
def test_the_progress_view_steers_no_terminal(terminal: bool) -> None:
    console = Console(file=io.StringIO(), force_terminal=terminal, width=200)
    values: dict[str, Any] = {
        "loss": 1.0,
        "terms": {text[:300]: 1.0 for text in STRINGS},
        "tokens_per_second": 1.0,
        "peak_memory_gib": 1.0,
    }
    for stage in ("[bold red]x[/] \x1b[31m {task.fields[x]}", "\u202e[/]"):
        with View(stage, 0, 2, console=console) as view:
            view.show(1, values)
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    rest = OURS.sub("", printed).replace("\r", "")
    assert not [c for c in rest if unicodedata.category(c) in ("Cc", "Cf", "Cs") and c != "\n"]
    assert "[bold red]x[/]" in rest and "⟨U+001B⟩" in rest
    assert "\x1b[31m" not in printed
