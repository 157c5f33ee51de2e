"""A student made ready for training, and made plain again."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import nn
from transformers import AutoModelForCausalLM

from nexus.errors import UsageError
from nexus.objectives.task import Task
from nexus.training.loop import train
from nexus.training.parallel import Parallel
from nexus.training.prepare import COMPILE_FROM, can_compile, compiles, finish, prepare

# PEFT asks transformers under a name that is on its way out.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")

LENGTHS = [5, 17, 24, 9]


def group(scene: SimpleNamespace) -> Any:
    return scene.in_rows([[document] for document in scene.make_documents(LENGTHS)], micro=2)


def test_by_default_nothing_but_the_cache_is_changed(scene: SimpleNamespace) -> None:
    student = scene.make_model()
    before = {name: value.clone() for name, value in student.state_dict().items()}
    assert prepare(student, scene.make_settings()) is student
    assert student.config.use_cache is False
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())
    assert finish(student) is student


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_weights_are_fp32_whatever_they_came_as(scene: SimpleNamespace, precision: str) -> None:
    """Under autocast too, where small updates would be rounded away otherwise."""
    student = scene.make_model().to(torch.bfloat16)
    prepare(student, scene.make_settings(precision=precision, learning_rate=1e-7))
    assert {p.dtype for p in student.parameters()} == {torch.float32}


def test_pure_bf16_at_a_rate_that_moves_nothing_is_refused(scene: SimpleNamespace) -> None:
    student = scene.make_model()
    with pytest.raises(UsageError, match=r"rate is 1e-06, but bf16 weights need \d\.\de-0[34]"):
        prepare(student, scene.make_settings(precision="pure_bf16", learning_rate=1e-6))
    prepare(student, scene.make_settings(precision="pure_bf16", learning_rate=1e-2))
    assert {p.dtype for p in student.parameters()} == {torch.bfloat16}


def test_pure_bf16_trains_the_positions_that_the_student_is_loaded_with(
    scene: SimpleNamespace, tmp_path: Path
) -> None:
    """To see it fail: cast the whole module in `prepare`, as `Module.to` does."""
    student: Any = scene.make_model()
    frequencies = student.model.rotary_emb.inv_freq.clone()
    prepare(student, scene.make_settings(precision="pure_bf16", learning_rate=1e-2))
    assert torch.equal(student.model.rotary_emb.inv_freq, frequencies)
    student.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert again.dtype == torch.bfloat16
    ids = torch.arange(20)[None]
    assert torch.equal(again(input_ids=ids).logits, student.eval()(input_ids=ids).logits)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_checkpointing_recomputes_and_changes_no_gradient(
    scene: SimpleNamespace, dropout: float
) -> None:
    gradients, forwards = [], []
    for wanted in (False, True):
        student = scene.make_model(dropout=dropout)
        prepare(student, scene.make_settings(gradient_checkpointing=wanted))
        calls: list[None] = []
        entering = student.model.layers[0].mlp.register_forward_pre_hook
        entering(lambda *_, calls=calls: calls.append(None))
        torch.manual_seed(3)
        gradients.append(scene.step_gradient(group(scene), student))
        forwards.append(len(calls))
    assert forwards == [2, 4]
    assert scene.distance(*gradients) < 1e-6


def test_checkpointing_ends_with_the_stage_that_wanted_it(scene: SimpleNamespace) -> None:
    student = scene.make_model()
    prepare(student, scene.make_settings(gradient_checkpointing=True))
    assert student.is_activation_checkpointing
    prepare(student, scene.make_settings())
    assert not student.is_activation_checkpointing


def test_a_student_that_cannot_recompute_is_refused(scene: SimpleNamespace) -> None:
    student = scene.make_model()
    student.supports_gradient_checkpointing = False
    with pytest.raises(UsageError, match="gradient_checkpointing is true.*Set it to false"):
        prepare(student, scene.make_settings(gradient_checkpointing=True))


def test_compiling_pays_for_large_students() -> None:
    small, large = nn.Linear(4, 4), nn.Linear(COMPILE_FROM, 1, bias=False, device="meta")
    settings = {value: settings_with(value) for value in ("auto", True, False)}
    assert [compiles(settings["auto"], student) for student in (small, large)] == [False, True]
    assert compiles(settings[True], small) and not compiles(settings[False], large)


def settings_with(value: Any) -> Any:
    from nexus.training.settings import TrainSpec

    return TrainSpec(steps=1, compile=value)


def adapted(scene: SimpleNamespace, folder: Path, tied: bool = False, **given: Any) -> Any:
    """A student and the adapter model around it, after some training."""
    student = scene.make_model(tied=tied)
    settings = {"steps": 3, "lora": {"rank": 2, **given}, "learning_rate": 0.05}
    model = prepare(student, scene.make_settings(**settings))
    stage = scene.make_stage(folder, model, None, scene.Fresh(), (Task(),), **settings)
    train(stage, Parallel(), quiet=True)
    return model


def test_only_adapters_are_trained(scene: SimpleNamespace, tmp_path: Path) -> None:
    model = adapted(scene, tmp_path)
    assert isinstance(model, PeftModel)
    start = scene.make_model().state_dict()
    for name, value in model.get_base_model().named_parameters():
        if "lora_" in name:
            assert value.requires_grad
        else:
            assert torch.equal(value, start[name.replace(".base_layer", "")])
            assert not value.requires_grad
    assert any(
        bool(value.abs().sum() > 0) for name, value in model.named_parameters() if "lora_B" in name
    )


@pytest.mark.parametrize(
    ("targets", "tied"),
    [("all-linear", False), ("all-linear", True), (["q_proj", "lm_head"], True)],
    ids=["all", "all, tied", "a head that is tied"],
)
@pytest.mark.filterwarnings("ignore:.*tie")
def test_the_merged_student_is_plain_and_says_what_the_adapter_model_says(
    scene: SimpleNamespace, tmp_path: Path, targets: Any, tied: bool
) -> None:
    model = adapted(scene, tmp_path, tied, targets=targets)
    ids = torch.randint(scene.VOCABULARY, (2, 20))
    model.eval()
    with torch.no_grad():
        expected = model(input_ids=ids).logits
        untrained = scene.make_model(tied=tied)(input_ids=ids).logits
    plain = finish(model)
    assert type(plain) is type(scene.make_model())
    plain.save_pretrained(tmp_path / "student")
    assert not list((tmp_path / "student").glob("adapter*"))
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "student")
    for each in (plain, loaded):
        with torch.no_grad():
            logits = each.eval()(input_ids=ids).logits
        torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
    assert (expected - untrained).norm() > 0.05 * expected.norm()


def test_after_an_adapter_the_next_stage_trains_all_weights(
    scene: SimpleNamespace, tmp_path: Path
) -> None:
    plain = finish(adapted(scene, tmp_path))
    model = prepare(plain, scene.make_settings())
    assert not isinstance(model, PeftModel)
    gradient = scene.step_gradient(group(scene), model)
    assert len(gradient) == len(list(model.parameters()))
    assert all(bool(value.abs().sum() > 0) for value in gradient.values())


def test_an_adapter_under_checkpointing_has_the_same_gradient(scene: SimpleNamespace) -> None:
    gradients = []
    for wanted in (False, True):
        torch.manual_seed(0)
        model = prepare(
            scene.make_model(),
            scene.make_settings(gradient_checkpointing=wanted, lora={"rank": 2}),
        )
        for name, value in model.named_parameters():
            if "lora_B" in name:
                torch.manual_seed(1)
                nn.init.normal_(value)
        gradients.append(scene.step_gradient(group(scene), model))
    assert scene.distance(*gradients) < 1e-6


def test_layers_that_do_not_exist_cannot_be_adapted(scene: SimpleNamespace) -> None:
    settings = scene.make_settings(lora={"targets": ["q_prj"]})
    with pytest.raises(UsageError, match=r"train.lora.targets is \('q_prj',\)"):
        prepare(scene.make_model(), settings)


def test_without_a_compiler_auto_runs_uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    assert not can_compile(cpu)
    assert can_compile(torch.device("cuda"))
    large = nn.Linear(COMPILE_FROM, 1, bias=False)
    assert not compiles(settings_with("auto"), large)
    with pytest.raises(UsageError, match="lacks a C.. compiler(.|\n)*compile: false"):
        compiles(settings_with(True), large)
