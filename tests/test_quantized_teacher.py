"""A teacher in few bits teaches; how far it moved is measured, and said."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from nexus.data.sources import Jsonl
from nexus.data.texts import texts
from nexus.errors import UsageError
from nexus.pipeline import run
from nexus.quantization.linear import PackedLinear
from nexus.quantization.scheme import scheme_of
from nexus.quantized_teacher import in_few_bits
from nexus.recipe.load import load
from nexus.report.build import build
from nexus.results import Evaluation
from nexus.teachers.local import LocalTeacher, LocalTeacherSpec

SMALL = runpy.run_path(str(Path(__file__).with_name("workspace.py")))


def test_a_bare_name_is_the_better_grid_and_a_mapping_is_taken_as_it_is() -> None:
    def scheme(quantize: Any) -> Any:
        return LocalTeacherSpec.parse({"model": "m", "quantize": quantize}).scheme

    four, eight = scheme("int4"), scheme("int8")
    assert (four.bits, four.group, four.symmetric) == (4, 64, False)
    assert eight.symmetric and eight.group is None
    assert scheme({"scheme": "int4", "group_size": 32}) == scheme_of(4, group_size=32)
    assert scheme(None) is None
    with pytest.raises(UsageError, match="quantize"):
        scheme("int5")


def test_its_words_are_those_of_the_rounded_weights_and_their_distance_is_said(
    tmp_path: Path,
) -> None:
    model = SMALL["make_model"](layers=2, seed=1)
    teacher = LocalTeacher(model, 259)
    tokenizer = SMALL["make_tokenizer"]()
    SMALL["write_rows"](tmp_path / "rows.jsonl", [{"text": "A sentence, and one more."}])
    (batch,) = texts([Jsonl(path="rows.jsonl")], tokenizer, tmp_path, length=40)
    few, said = in_few_bits(teacher, scheme_of(3, group_size=32), lambda _: [batch], tokenizer)
    assert isinstance(few.get_submodule("model.layers.0.mlp.up_proj"), PackedLinear)
    assert not any(parameter.requires_grad for parameter in few.parameters())
    with torch.no_grad():
        exact = model(batch.input_ids).logits.log_softmax(-1)[batch.is_target]
        found = few(batch.input_ids).logits.log_softmax(-1)[batch.is_target]
    divergence = float((exact.exp() * (exact - found)).sum(-1).mean())
    told = re.search(r"KL ([\d.]+) nats", said)
    assert told is not None and float(told[1]) == pytest.approx(divergence, rel=0.06)
    assert "14 layers in int3" in said
    _, nothing = in_few_bits(teacher, scheme_of(8), lambda _: [batch], tokenizer, compared=False)
    assert nothing == ""


def test_a_student_is_cut_from_the_whole_teacher_and_taught_by_the_one_in_few_bits(
    tmp_path: Path,
) -> None:
    recipe: Path = SMALL["write_workspace"](tmp_path)
    values = yaml.safe_load(recipe.read_text())
    values["teacher"]["quantize"] = {"scheme": "int4", "group_size": 32}
    values["student"] = {"kind": "layers", "count": 2, "pick": "first"}
    values["train"] |= {"steps": 1, "tokens_per_step": 128}
    values["evaluate"]["rollouts"] = 0
    values["check"] = {"stop": False}  # random weights know nothing better than others
    recipe.write_text(yaml.safe_dump(values))
    said: list[str] = []
    directory = run(load(recipe), tmp_path, say=said.append)
    assert any("quantising the teacher" in one for one in said)
    assert any("28 layers in int4" in one for one in directory.environment["notices"])
    evaluation = Evaluation.load(directory.path)
    assert evaluation is not None
    whole = sum(one.numel() for one in SMALL["make_model"](layers=4, seed=1).parameters())
    assert evaluation.size["teacher"].parameters == whole
    assert "28 layers in int4" in build(directory.path).read_text()


def test_a_teacher_that_cannot_be_quantised_is_refused(tmp_path: Path) -> None:
    recipe: Path = SMALL["write_workspace"](tmp_path)
    values = yaml.safe_load(recipe.read_text())
    values["teacher"]["quantize"] = {"scheme": "int4", "group_size": 48}
    recipe.write_text(yaml.safe_dump(values))
    with pytest.raises(UsageError, match="choose 32, 16, 8"):
        run(load(recipe), tmp_path)
