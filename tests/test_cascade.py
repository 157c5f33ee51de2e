"""Students that become smaller from stage to stage, killed anywhere, and whom they learn from."""

from __future__ import annotations

import hashlib
import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from nexus.pipeline import run
from nexus.recipe.load import load
from nexus.results import Evaluation

SCRIPT = Path(__file__).with_name("cascading.py")
CASCADE = runpy.run_path(str(SCRIPT))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the runs left behind that cascading.py killed."""
    folder = tmp_path_factory.mktemp("cascade")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(folder)],
        env=environment, capture_output=True, text=True, timeout=1200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder


def test_killed_anywhere_the_students_of_all_stages_are_the_same(folder: Path) -> None:
    told: list[dict[str, Any]] = json.loads((folder / "told.json").read_text())
    assert [each["code"] for each in told] == [-9] * 13 + [0], told
    kept = ("stages/three/student", "stages/two/cut", "stages/two/student", "stages/thin/cut")
    for name in (*kept, "student"):
        sums = {
            hashlib.sha256((folder / "workspace" / run / name / "model.safetensors").read_bytes())
            .hexdigest()
            for run in ("undisturbed", "disturbed")
        }  # fmt: skip
        assert len(sums) == 1, name
    lines = (folder / "workspace" / "disturbed" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3] * 3


def test_each_student_is_smaller_and_each_stage_has_its_account(folder: Path) -> None:
    run = folder / "workspace" / "undisturbed"
    shapes = []
    for name in ("stages/three/student", "stages/two/student", "student"):
        model = AutoModelForCausalLM.from_pretrained(run / name)
        shapes.append((model.config.num_hidden_layers, model.config.intermediate_size))
    assert shapes == [(3, 64), (2, 64), (2, 32)]
    evaluation = Evaluation.load(run)
    assert evaluation is not None and evaluation.heldout is not None
    three, two, thin = evaluation.stages
    assert [stage.tokens for stage in evaluation.stages] == [3 * 128, 3 * 192, 3 * 128]
    assert [stage.teacher for stage in evaluation.stages] == ["original", "original", "previous"]
    assert three.parameters > two.parameters > thin.parameters
    assert thin.ended == evaluation.heldout.trained and thin.begun == evaluation.heldout.untrained
    assert three.student_flops and two.student_flops and two.teacher_flops and thin.teacher_flops
    # By the definition: a step is three forward passes of the student and one of its teacher.
    assert thin.teacher_flops / thin.tokens == two.student_flops / (3 * two.tokens)
    for earlier, later in ((three, two), (two, thin)):
        assert later.begun and earlier.ended and later.begun.forward_kl and earlier.ended.forward_kl
        cost = later.begun.forward_kl.value - earlier.ended.forward_kl.value
        assert later.cost_of_cut["forward_kl"].value == pytest.approx(cost)


def test_budgets_count_the_same_at_every_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bytes are those of the files, shares of the larger model's own; time is that of one type.

    To see it fail: in cascade._built, leave out the types, or load what is cut in float32.
    """
    path = CASCADE["write_workspace"](tmp_path / "w")
    cuts = [
        {"kind": "pruned", "target": share, "budget": budget, "multiple": 4, **CASCADE["LITTLE"]}
        for share, budget in ((1.0, "bytes"), (0.9, "latency"), (0.95, "bytes"))
    ]
    timed: list[torch.dtype] = []
    monkeypatch.setattr("nexus.pruning.latency.seconds_a_token", lambda model: clock(model, timed))
    precise = ("fp32", "pure_bf16", "pure_bf16")
    changes = ["teacher.dtype=bfloat16", f"student={cuts[0]}", f"stages.1.student={cuts[1]}"]
    changes += [f"stages.2.student={cuts[2]}", "stages.2.teacher=original"]
    changes += [f"stages.{number}.train.precision={each}" for number, each in enumerate(precise)]
    changes += [f"stages.{number}.train.steps=1" for number in range(3)]
    run(load(path, tuple(changes)), path.parent)
    made = path.parent / "run"
    places = (path.parent / "teacher", made / "stages/three/student", made / "stages/two/student",
              made / "student")  # fmt: skip
    whole, three, two, last = (
        sum(weight.numel() * weight.itemsize for weight in load_file(file).values())
        for file in (place / "model.safetensors" for place in places)
    )
    assert three / (whole / 2) == pytest.approx(1, rel=0.02)  # the teacher is held in bfloat16
    assert last / two == pytest.approx(0.95, rel=0.02)
    assert set(timed) == {torch.bfloat16}


def clock(model: Any, timed: list[torch.dtype]) -> float:
    """A machine that takes as long as there are weights."""
    timed.append(model.dtype)
    return sum(weight.numel() for weight in model.parameters()) * 1e-9


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("stages.0.teacher=previous", "no previous student to learn from: set teacher: original"),
        ("stages.0.student={kind: layers, count: 2}", "write it as 'student' of the recipe"),
        ("stages.1.student={kind: pruned, target_params: 3e4}", ""),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_line(tmp_path: Path, change: str, said: str) -> None:
    path = CASCADE["write_workspace"](tmp_path / "w")
    changes = [change]
    if "target_params" in change:
        changes.insert(0, "student={kind: pruned, target_params: 2e4}")
        said = "not below the 20,000 of the student that it is cut from"
    with pytest.raises(Exception, match="stage") as refused:
        load(path, tuple(changes))
    assert said in str(refused.value) and "\n" not in str(refused.value)
