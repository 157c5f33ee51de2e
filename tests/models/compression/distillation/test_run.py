"""distill(): the same run as a recipe's, from models in memory."""

from __future__ import annotations

import json
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from nexus.errors import UsageError
from nexus.models.compression.distillation import distill
from nexus.results import Evaluation

SMALL = runpy.run_path(str(Path(__file__).parents[3] / "workspace.py"))
TEXTS: list[str] = SMALL["sentences"](24)
Distil = Callable[..., PreTrainedModel]


def models() -> tuple[PreTrainedModel, PreTrainedModel]:
    return SMALL["make_model"](layers=3, seed=1), SMALL["make_model"](layers=2, seed=2)


@pytest.fixture(scope="module")
def teacher() -> PreTrainedModel:
    return models()[0]


@pytest.fixture
def distil(teacher: PreTrainedModel) -> Distil:
    """A short run; `student`, `data` and everything else may be given."""

    def run(data: Any = TEXTS[:16], **arguments: Any) -> PreTrainedModel:
        student = arguments.pop("student", None) or models()[1]
        defaults = {
            "tokenizer": SMALL["make_tokenizer"](),
            "steps": 2,
            "sequence_length": 128,
            "evaluate": {"speed_seconds": 0, "samples": 1},
            "train": {"learning_rate": 1e-2, "warmup_steps": 0, "precision": "fp32"},
        }
        return distill(arguments.pop("teacher", teacher), student, data, **defaults | arguments)

    return run


def steps(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def same(one: PreTrainedModel, other: PreTrainedModel) -> bool:
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return all(torch.equal(left, right) for left, right in pairs)


def test_it_brings_the_student_closer_to_its_teacher(distil: Distil, tmp_path: Path) -> None:
    arguments = {"heldout": TEXTS[16:], "output": tmp_path / "run", "T": 1.0, "alpha": 0.0}
    train = {"learning_rate": 1e-2, "warmup_steps": 0, "precision": "fp32"}
    trained = distil(steps=12, train=train, **arguments)
    heldout = Evaluation.load(tmp_path / "run").heldout
    before, after = heldout.untrained.forward_kl.value, heldout.trained.forward_kl.value
    assert after < 0.8 * before
    assert same(trained, AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "student"))
    assert (tmp_path / "run" / "report.html").is_file()


def test_alpha_and_temperature_reach_the_objectives(distil: Distil, tmp_path: Path) -> None:
    distil(output=tmp_path / "half")
    for step in steps(tmp_path / "half"):
        terms = step["terms"]
        assert step["loss"] == pytest.approx((terms["task"] + terms["output"]) / 2, rel=1e-5)
    distil(output=tmp_path / "pure", T=1.0, alpha=0.0, steps=1)
    (step,) = steps(tmp_path / "pure")
    assert step["terms"].keys() == {"output"} and step["loss"] == pytest.approx(step["kl"])
    distil(output=tmp_path / "task", alpha=1.0, steps=1)
    (step,) = steps(tmp_path / "task")
    assert step["terms"].keys() == {"task"} and "kl" not in step


def test_the_same_call_again_changes_nothing(
    distil: Distil, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = distil(output=tmp_path / "run")
    assert same(first, distil(output=tmp_path / "run"))
    assert "is finished: nothing to do" in capsys.readouterr().err
    distil(output=tmp_path / "run", fresh=True, steps=1)
    assert len(steps(tmp_path / "run")) == 1
    assert len(list(tmp_path.glob("run-*"))) == 1


def test_a_run_is_not_continued_with_other_rows_or_models(distil: Distil, tmp_path: Path) -> None:
    distil(output=tmp_path / "run", steps=1)
    other = SMALL["make_model"](layers=2, seed=7)
    for changed in ({"data": TEXTS[1:16]}, {"student": other}, {"teacher": other}, {"steps": 2}):
        with pytest.raises(UsageError, match="holds a run of another recipe"):
            distil(**{"steps": 1, "output": tmp_path / "run"} | changed)


def test_data_may_be_rows_texts_a_file_or_a_data_set(distil: Distil, tmp_path: Path) -> None:
    from datasets import Dataset

    rows = [{"text": text} for text in TEXTS[:16]]
    SMALL["write_rows"](tmp_path / "rows.jsonl", rows)
    first = distil(TEXTS[:16])
    for data in (rows, iter(rows), tmp_path / "rows.jsonl", Dataset.from_list(rows)):
        assert same(first, distil(data))


def test_a_student_in_half_precision_is_trained_in_float32(distil: Distil) -> None:
    trained = distil(student=models()[1].bfloat16())
    assert trained.dtype == torch.float32
    weight = trained.model.layers[0].mlp.up_proj.weight
    assert not torch.equal(weight, weight.bfloat16().float())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"alpha": 1.5}, "alpha is 1.5"),
        ({"T": 0.0}, "'objectives.*temperature' is 0.0"),
        ({"divergence": "kl"}, "'kl', but it does not exist"),
        ({"data": iter([3])}, r"train\[0\] is '3' of type int. Give strings, or dicts"),
        ({"data": ["half a \ud800 character"]}, r"train\[0\] is .*Unicode"),
        ({"data": []}, "the data set is empty"),
        ({"data": "nowhere.jsonl"}, "nowhere.jsonl: there is no such file"),
        ({"sequence_length": 512}, "data.sequence_length is 512, but the models take at most 256"),
        ({"tokenizer": None}, "pass tokenizer="),
        ({"train": {"lr": 1e-3}}, "unknown key 'train.lr': did you mean"),
    ],
)
def test_mistakes_are_refused_and_leave_no_run(
    distil: Distil, tmp_path: Path, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        distil(output=tmp_path / "run", **arguments)
    assert not (tmp_path / "run").exists()


def test_a_student_that_is_its_teacher_is_refused(distil: Distil, teacher: PreTrainedModel) -> None:
    with pytest.raises(UsageError, match="shares weights with the student"):
        distil(student=teacher)


def test_a_list_of_sizes_becomes_smaller_step_by_step(
    teacher: PreTrainedModel, tmp_path: Path
) -> None:
    sizes = [35_232, 29_024]
    run = tmp_path / "steps"
    defaults: dict[str, Any] = {
        "tokenizer": SMALL["make_tokenizer"](),
        "steps": 2,
        "sequence_length": 128,
        "heldout": TEXTS[16:],
        "evaluate": {"speed_seconds": 0, "samples": 0, "rollouts": 0},
        "train": {"learning_rate": 1e-2, "warmup_steps": 0, "precision": "fp32"},
    }
    student = distill([teacher, *sizes], data=TEXTS[:16], output=run, **defaults)
    evaluation = Evaluation.load(run)
    assert evaluation is not None
    assert [stage.parameters for stage in evaluation.stages] == sizes
    assert sum(parameter.numel() for parameter in student.parameters()) == sizes[-1]
    with pytest.raises(UsageError, match="a teacher and then numbers of parameters"):
        distill([teacher, teacher], data=TEXTS, **defaults)
    with pytest.raises(UsageError, match="needs either a student or sizes"):
        distill([teacher], data=TEXTS, **defaults)
