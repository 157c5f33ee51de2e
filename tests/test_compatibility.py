"""Templates, padding and code of strangers: refused where they spoil a run, else told."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch

from nexus.compatibility import (
    padding_noticed,
    refuse_other_template,
    require_calibration,
    strangers,
)
from nexus.data.loader import from_padded
from nexus.data.loader import load as load_data
from nexus.errors import UsageError
from nexus.recipe.schema import Recipe
from nexus.teachers.local import LocalTeacher

HERE = Path(__file__).parent
WORKSPACE = runpy.run_path(str(HERE / "workspace.py"))
CORPUS = runpy.run_path(str(HERE / "hostile_models.py"))
LAST = torch.tensor([256, 257, 258])
CHAT = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("strangers")
    WORKSPACE["write_workspace"](folder)
    other = WORKSPACE["make_tokenizer"]()
    other.chat_template = other.chat_template.replace("<|im_start|>", "[INST]")
    WORKSPACE["save"](folder / "other", WORKSPACE["make_model"](layers=1, seed=0), other)
    WORKSPACE["write_rows"](folder / "chat.jsonl", [CHAT])
    CORPUS["code"](folder / "student")
    return folder


def recipe(**student: Any) -> Recipe:
    student = {"kind": "pretrained", "model": "other"} | student
    return Recipe.parse(WORKSPACE["RECIPE"] | {"student": student})


def with_chats(recipe: Recipe) -> Recipe:
    values = recipe.model_dump(mode="json", exclude_none=True)
    values["data"]["sources"].append({"kind": "jsonl", "path": "chat.jsonl"})
    return Recipe.parse(values)


def test_another_template_is_told_and_with_conversations_refused(folder: Path) -> None:
    """To see it fail: in compatibility.py, `if difference and kept and has_chats(rows, folder):`
    → `if False:`.
    """
    notices = strangers(recipe(), folder)
    assert len(notices) == 1
    assert "chat templates of teacher and student differ" in notices[0]
    assert "saved with the teacher's" in notices[0]
    refuse_other_template(recipe(), folder, "They differ.")
    refuse_other_template(with_chats(recipe()), folder, None)
    with pytest.raises(UsageError, match="They differ.*tokenizer: teacher beside student.model"):
        refuse_other_template(with_chats(recipe()), folder, "They differ.")
    refuse_other_template(with_chats(recipe(tokenizer="teacher")), folder, "They differ.")


def test_the_same_template_is_not_mentioned(folder: Path) -> None:
    assert strangers(recipe(model="student"), folder) == []


def test_code_that_runs_is_named_with_its_hash(folder: Path) -> None:
    trusting = recipe(model="student", trust_remote_code=True)
    (notice,) = strangers(trusting, folder)
    assert "own.py" in notice and "SHA-256" in notice
    before = notice
    (folder / "student" / "own.py").write_text("another = True\n")
    assert strangers(trusting, folder) != [before]


def test_padding_with_probability_is_told_of_the_student_and_refused_of_the_teacher() -> None:
    """Three head rows beyond the 256 letters; a bias decides what they get.

    To see it fail: in compatibility.py, drop `check_teacher_padding(mass)`.
    """
    batch = from_padded(torch.arange(16)[None])
    using, ignoring = (WORKSPACE["make_model"](layers=1, seed=0) for _ in range(2))
    ignoring.lm_head.bias = torch.nn.Parameter(torch.zeros(259).index_fill(0, LAST, -30.0))
    with pytest.raises(UsageError, match="The teacher gives .* beyond its tokenizer's vocabulary"):
        padding_noticed(LocalTeacher(using, 256), ignoring, batch)
    said = padding_noticed(LocalTeacher(ignoring, 256), using, batch)
    assert re.search(r"the teacher gave them \de-\d+ .*the untrained student 0\.0\d", said), said


CUT = {"kind": "pruned", "shape": {"neurons": 32}}
STAGE = {"objectives": WORKSPACE["RECIPE"]["objectives"], "train": WORKSPACE["RECIPE"]["train"]}
CASCADE = {
    "stages": [{"name": "whole", **STAGE}, {"name": "cut", "student": CUT, **STAGE}],
    "objectives": None,
    "train": None,
}


@pytest.mark.parametrize("changes", [{"student": CUT}, CASCADE])
def test_a_student_is_not_cut_by_less_text_than_a_row(folder: Path, changes: Any) -> None:
    """To see it fail: in compatibility.require_calibration, look at no student."""
    values = {k: v for k, v in (WORKSPACE["RECIPE"] | changes).items() if v is not None}
    wanted = Recipe.parse(values)
    WORKSPACE["write_rows"](folder / "train.jsonl", [{"text": "the cat"}])
    WORKSPACE["write_rows"](folder / "heldout.jsonl", [{"text": "the dog"}])
    sizes: Any = {"seed": 0, "tokens_per_step": 128, "micro_batch_rows": 1}
    batches = load_data(wanted.data, WORKSPACE["make_tokenizer"](), folder, **sizes)
    with pytest.raises(UsageError, match="holds 8 tokens, less than one sequence of 128: give"):
        require_calibration(wanted, batches)
    require_calibration(recipe(), batches)
    if "student" in changes:
        require_calibration(wanted, batches, given=True)
    WORKSPACE["write_rows"](folder / "train.jsonl", [{"text": "the cat " * 40}])
    batches = load_data(wanted.data, WORKSPACE["make_tokenizer"](), folder, **sizes)
    require_calibration(wanted, batches)
