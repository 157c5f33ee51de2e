from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from nexus.errors import UsageError
from nexus.findings import Finding, note
from nexus.report.build import build
from nexus.results import Evaluation, Sample

VOID = {"meta", "br", "img", "hr", "input", "link"}


class Page(HTMLParser):
    """What a browser would see: tags with their attributes, and the text outside of styles."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(self.source)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).replace("\N{NO-BREAK SPACE}", " ").split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)


def test_the_page_holds_everything_a_reader_needs(run: Path) -> None:
    path = build(run)
    assert path == run / "report.html"
    page = Page(path)
    assert page.open == []
    for part in (
        "SmolLM2-135M-Instruct, distilled",
        "62.8 % 61.9 – 63.7",
        "What is left of the teacher",
        "212 held-out documents with 30,512 target tokens",
        "95 % intervals from resampling whole documents",
        "88.1 %",
        "Not said: the untrained student was as good as the teacher.",
        "Top-1 agreement",
        "The capital of France is",
        "4,820",
        "truncated",
        "pick: block_influence",
        "AMD EPYC",
        "Rows of padding beyond the vocabulary",
        "medians of 7 rounds",
        "120 steps in 4 min",
    ):
        assert part in page.text, part
    assert len(re.findall(r"<svg role=\"img\"", page.source)) == 7 + 1 + 2


def test_the_page_reaches_for_nothing_outside_and_runs_nothing(run: Path) -> None:
    page = Page(build(run))
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"script", "link", "iframe", "object", "embed", "img", "form"}
    for _, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("href", "xlink:href", "src", "action"):
            assert str(attributes.get(name, "#")).startswith("#")
    assert "@import" not in page.source
    assert not re.search(r"url\((?!#)", page.source)
    policy = next(
        str(attributes["content"])
        for tag, attributes in page.tags
        if tag == "meta" and attributes.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'; img-src data:")
    assert any(attributes.get("name") == "viewport" for _, attributes in page.tags)


def test_what_models_and_users_wrote_stays_text(run: Path, evaluation: Evaluation) -> None:
    hostile = "</p><script>alert(1)</script><img src=x onerror=alert(2)>{{ 7 * 7 }}"
    sample = Sample(prompt=hostile, teacher=hostile, student=hostile)
    evaluation.model_copy(update={"samples": (sample,)}).save(run)
    (run / "environment.json").write_text(json.dumps({hostile: hostile, "notices": [hostile]}))
    step = {"step": 1, "loss": 1.0, "terms": {hostile: 1.0, "task": 2.0}}
    (run / "metrics.jsonl").write_text(json.dumps(step) + "\n")
    recipe = f"teacher: {{kind: local, model: {json.dumps(hostile)}}}\n"
    (run / "recipe.yaml").write_text(recipe)
    page = Page(build(run))
    assert not {tag for tag, _ in page.tags} & {"script", "img"}
    assert page.text.count(hostile) >= 6


def test_the_same_run_gives_the_same_page(run: Path) -> None:
    first = build(run).read_bytes()
    assert build(run).read_bytes() == first
    assert sorted(path.name for path in run.iterdir()) == [
        "check.json",
        "environment.json",
        "evaluation.json",
        "metrics.jsonl",
        "recipe.yaml",
        "report.html",
    ]


def test_missing_parts_are_said(run: Path) -> None:
    for name in ("metrics.jsonl", "evaluation.json", "environment.json"):
        (run / name).unlink()
    text = Page(build(run)).text
    for part in (
        "no metrics.jsonl (no training yet)",
        "no evaluation.json (not evaluated yet)",
        "no environment.json (the machine is not known)",
        "Not measured yet",
        "Training has not started",
    ):
        assert part in text


def test_unreadable_steps_are_said(run: Path) -> None:
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 121, "los')
    assert "Lines of metrics.jsonl that could not be read: 1." in Page(build(run)).text


def test_models_timed_in_different_types_are_said_to_be(run: Path, evaluation: Evaluation) -> None:
    assert evaluation.speed is not None
    teacher = evaluation.speed.teacher.model_copy(update={"dtype": "bfloat16"})
    speed = evaluation.speed.model_copy(update={"teacher": teacher})
    evaluation.model_copy(update={"speed": speed}).save(run)
    assert "not of size alone" in Page(build(run)).text


def test_trained_on_heldout_documents_are_a_notice(run: Path) -> None:
    environment = json.loads((run / "environment.json").read_text())
    environment["data"]["total"]["held-out documents also trained on"] = 3
    (run / "environment.json").write_text(json.dumps(environment))
    assert "trained on too, which flatters the student: 3." in Page(build(run)).text


def test_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not a run directory"):
        build(tmp_path)
    assert not list(tmp_path.iterdir())


def test_what_went_wrong_on_the_way_is_said(run: Path) -> None:
    note(run, Finding("train", 150, "a checkpoint is damaged <b>", "It is kept aside"))
    page = Page(build(run))
    assert "train, step 150: a checkpoint is damaged <b>. It is kept aside" in page.text
