from __future__ import annotations

import os
from pathlib import Path

import pytest

from nexus.errors import UsageError
from nexus.report.reading import read_run


def test_all_parts_of_a_run_are_read(run: Path) -> None:
    files = read_run(run)
    assert files.recipe["student"]["count"] == 15
    assert files.environment["hardware"]["cores"] == 2
    assert [step["step"] for step in files.steps] == list(range(1, 121))
    assert files.evaluation is not None
    assert files.unreadable_steps == 0
    assert files.stages == [files.recipe]


def test_a_run_that_has_only_begun_is_a_run(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("output: here\n")
    files = read_run(tmp_path)
    assert (files.steps, files.environment, files.evaluation) == ([], {}, None)


def test_steps_that_were_repeated_after_a_kill_count_once_and_a_torn_line_is_counted(
    run: Path,
) -> None:
    lines = [
        '{"step": 1, "kl": 9}',
        '{"step": 2, "kl": 8}',
        '{"step": 2, "kl": 7}',
        '{"step": 3, "k',
    ]
    (run / "metrics.jsonl").write_text("\n".join(lines))
    files = read_run(run)
    assert [(step["step"], step["kl"]) for step in files.steps] == [(1, 9), (2, 7)]
    assert files.unreadable_steps == 1


def test_stages_count_their_own_steps(run: Path) -> None:
    lines = ['{"stage": "a", "step": 1}', '{"stage": "b", "step": 1}']
    (run / "metrics.jsonl").write_text("\n".join(lines))
    assert len(read_run(run).steps) == 2


@pytest.mark.parametrize("exists", [True, False])
def test_another_directory_is_refused_with_the_reason(tmp_path: Path, exists: bool) -> None:
    where = tmp_path / "elsewhere"
    if exists:
        where.mkdir()
    reason = "has no recipe.yaml in it" if exists else "does not exist"
    with pytest.raises(UsageError, match=rf"elsewhere is not a run directory: it {reason}"):
        read_run(where)


@pytest.mark.parametrize("name", ["recipe.yaml", "environment.json"])
@pytest.mark.parametrize("text", ["{ broken", "[1]"])
def test_a_damaged_file_is_named(run: Path, name: str, text: str) -> None:
    (run / name).write_text(text)
    with pytest.raises(UsageError, match=name):
        read_run(run)


def test_what_is_no_file_is_not_waited_for(run: Path) -> None:
    (run / "metrics.jsonl").unlink()
    os.mkfifo(run / "metrics.jsonl")
    with pytest.raises(UsageError, match=r"metrics\.jsonl is no file"):
        read_run(run)


def test_training_in_few_bits_is_no_step_towards_the_teacher(run: Path) -> None:
    lines = ['{"stage": "train", "step": 1}', '{"stage": "quantize", "step": 1}']
    (run / "metrics.jsonl").write_text("\n".join(lines))
    assert len(read_run(run).steps) == 2  # a stage that is called so
    with (run / "recipe.yaml").open("a") as recipe:
        recipe.write("\nquantize: {scheme: int4, distill: {train: {steps: 1}}}\n")
    assert [step["stage"] for step in read_run(run).steps] == ["train"]
