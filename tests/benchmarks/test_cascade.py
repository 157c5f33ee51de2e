"""All arms end in one shape, on equally many tokens, under the same teacher."""

from __future__ import annotations

import json
import runpy
from functools import partial
from pathlib import Path

import pytest
import yaml
from cascade import Plan, main
from cascade_table import interval, verdict
from cascade_teacher import Shape, prepare

from nexus import pipeline
from nexus.errors import UsageError
from nexus.hub import ModelSource, load_tokenizer
from nexus.recipe.load import load

SMALL = runpy.run_path(str(Path(__file__).parents[1] / "workspace.py"))
SENTENCES = SMALL["sentences"](44)
TINY = Shape(vocabulary=300, hidden=64, layers=6, neurons=256, head_entries=16)


def distil_here(recipe: Path, threads: int) -> None:
    """In this process, which has imported everything."""
    pipeline.run(load(recipe), recipe.parent)


def test_arms_differ_in_their_way_down_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cascade.distil", distil_here)
    monkeypatch.setattr("nexus.pipeline.build", lambda run: (run / "report.html").touch())
    whole = Plan.cut
    monkeypatch.setattr(
        Plan, "cut", lambda plan, share: {**whole(plan, share), "calibration_tokens": 512}
    )
    for name, rows in (("train", SENTENCES[:40]), ("heldout", SENTENCES[40:44])):
        SMALL["write_rows"](tmp_path / f"{name}.jsonl", [{"text": row} for row in rows])
    again = partial(
        main, tmp_path, seeds=(0,), shape=TINY, teacher_steps=2, steps=10, tokens_per_step=128,
        sequence_length=64, output=tmp_path / "table",
    )  # fmt: skip
    again()
    again()  # nothing is trained
    with pytest.raises(UsageError, match="another recipe"):
        again(learning_rate=2e-3)
    facts = json.loads((tmp_path / "table.json").read_text())
    runs = {name: runs["0"] for name, runs in facts["arms"].items()}
    for name, run in runs.items():
        assert run["stages"][-1]["parameters"] == runs["one-shot"]["stages"][-1]["parameters"]
        tokens = sum(stage["tokens"] for stage in run["stages"])
        assert tokens >= 10 * 128 if name == "one-shot-flops" else tokens == 10 * 128
    half, quarter = runs["cascade"]["stages"]
    assert facts["teacher"]["parameters"] > half["parameters"] > quarter["parameters"]
    assert len({run["teacher_perplexity"] for run in runs.values()}) == 1
    assert runs["one-shot-ce"]["stages"][0]["teacher_flops"] == 0
    previous = runs["cascade-previous"]["stages"][1]["teacher_flops"]
    assert 0 < previous < quarter["teacher_flops"]
    assert runs["one-shot-flops"]["flops"] == pytest.approx(runs["cascade"]["flops"], rel=0.15)
    assert "with one seed nothing can be said" in (tmp_path / "table.md").read_text()


def test_what_lies_there_stays_and_other_text_is_split(tmp_path: Path) -> None:
    text = tmp_path / "some.jsonl"
    SMALL["write_rows"](text, [{"text": f"{n} " + "of many words " * 60} for n in range(60)])
    for _ in range(2):
        prepare(tmp_path / "work", (text,), TINY)
        text.write_text("")
    count = {
        name: len((tmp_path / "work" / f"{name}.jsonl").read_text().splitlines())
        for name in ("train", "heldout")
    }
    assert sum(count.values()) == 60 and min(count.values()) > 5
    words = load_tokenizer(ModelSource(model="placeholder"), tmp_path / "work")
    assert len(words) <= TINY.vocabulary and words.decode(words.encode("of words")) == "of words"


def test_steps_fit_into_the_time_and_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed: list[str] = []

    def timed_only(recipe: Path, threads: int) -> None:
        """A step of the first stage takes half a second, of the second a quarter."""
        values = yaml.safe_load(recipe.read_text())
        run = recipe.parent / values["output"]
        run.mkdir(parents=True)
        stages = values.get("stages", [{"name": "train", "train": values.get("train")}])
        lines = [
            {"stage": stage["name"], "step": step, "seconds": 9.0 if step < 3 else 0.5 / (n + 1)}
            for n, stage in enumerate(stages)
            for step in range(1, stage["train"]["steps"] + 1)
        ]
        (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        (run / "report.html").touch()
        timed.append(run.name)

    monkeypatch.setattr("cascade.distil", timed_only)
    for name in ("train", "heldout"):
        SMALL["write_rows"](tmp_path / f"{name}.jsonl", [{"text": row} for row in SENTENCES])
    prepare(tmp_path, (), TINY)
    plan = Plan(tmp_path, TINY, 2.0, 1, 1e-3, 1e-3, 0.5, 128, 64)
    for _ in range(2):
        assert plan.steps("teacher") == 2 * 60 / 0.5
        assert plan.steps("students") == round(2 * 60 / 6 / 0.375)
    assert timed == ["teacher-timing", "teacher-240", "students-timing"]


def test_the_interval_is_students_and_zero_in_it_is_no_difference() -> None:
    found = interval([-0.3, -0.2, -0.1])
    assert found["mean"] == pytest.approx(-0.2)
    assert found["high"] - found["mean"] == pytest.approx(4.303 * 0.1 / 3**0.5)
    row = {"pair": "cascade - one-shot", "measure": "nll", "of": 2.0}
    assert "No difference was detected" in verdict({**row, **found})
    assert "is better" in verdict({**row, **interval([-0.21, -0.2, -0.19])})
    assert "is worse" in verdict({**row, **interval([0.21, 0.2, 0.19])})
