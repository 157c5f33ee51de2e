"""MinitronPruner as the specification writes it, and what it refuses."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from nexus.errors import UsageError
from nexus.models.compression.distillation import KnowledgeDistiller, MinitronPruner

TINY = runpy.run_path(str(Path(__file__).parents[4] / "examples" / "tiny.py"))
WORKSPACE = runpy.run_path(str(Path(__file__).parents[3] / "workspace.py"))
TEXTS = TINY["sentences"](40)
SAVED = "saved and loaded it gives the same logits"


def teacher() -> PreTrainedModel:
    model: PreTrainedModel = TINY["make_model"](layers=4, seed=1)
    return model


def count(model: PreTrainedModel) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.filterwarnings("ignore")
def test_a_student_of_the_size_asked_for_that_saves_loads_and_writes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = teacher()
    target = 0.8 * count(whole)
    pruner = MinitronPruner(
        teacher=whole, target_params=target, pruning_strategy="importance", multiple=8
    )
    student = pruner.prune_and_create_student()
    assert "the teacher writes its own text" in capsys.readouterr().err
    assert abs(count(student) / target - 1) <= 0.02
    assert pruner.pruned is not None and pruner.pruned.scores.strategy == "activation"
    assert pruner.pruned.findings[-1].name == SAVED
    student.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    ids = torch.arange(8)[None]
    assert torch.equal(again(input_ids=ids).logits, student(input_ids=ids).logits)
    assert student.generate(ids, max_new_tokens=3, do_sample=False).shape[1] > 8


def test_it_learns_from_its_teacher() -> None:
    whole = teacher()
    pruner = MinitronPruner(
        whole, 0.8 * count(whole), multiple=8,
        calibration_data=TEXTS, tokenizer=TINY["make_tokenizer"](),
    )  # fmt: skip
    student = pruner.prune_and_create_student().train()
    ids = torch.randint(250, (2, 16))
    KnowledgeDistiller(teacher=whole, student=student).compute_loss(ids, labels=ids).backward()
    assert all(parameter.grad is not None for parameter in student.parameters())


def test_texts_are_their_tokens() -> None:
    tokenizer = TINY["make_tokenizer"]()
    tokens = [torch.tensor(tokenizer(text)["input_ids"]) for text in TEXTS]
    made = [
        MinitronPruner(teacher(), 4e4, multiple=8, calibration_data=data, tokenizer=tokenizer)
        for data in (TEXTS, tokens, [one[None] for one in tokens])
    ]
    scores = [
        (pruner.prune_and_create_student(), pruner.pruned.scores.neurons)[1]  # type: ignore[union-attr]
        for pruner in made
    ]
    for layer, values in scores[0].items():
        assert torch.equal(values, scores[1][layer]) and torch.equal(values, scores[2][layer])


def test_magnitudes_need_no_text(capsys: pytest.CaptureFixture[str]) -> None:
    pruner = MinitronPruner(teacher(), 4e4, "magnitude", multiple=8, repair=False)
    assert count(pruner.prune_and_create_student()) < count(teacher())
    assert "own text" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"pruning_strategy": "important"}, "did you mean 'importance'? Known: importance, act"),
        ({"calibration_data": TEXTS}, "pass tokenizer="),
        ({"calibration_data": [torch.arange(20)]}, "20 tokens, less than one sequence of 256"),
        ({"calibration_data": []}, "holds 0 tokens"),
        ({"calibration_data": [torch.rand(300)]}, "torch.float32: give token ids"),
        ({"calibration_data": [torch.full((300,), 999)]}, "999"),
        ({"depth": "perplexiti"}, "did you mean 'perplexity'?"),
        ({"aggregate": ("mean",)}, "Write mean l2"),
        ({"shape": {"neurons": 32}}, "give one of them"),
        ({"calibration_tokens": 0}, "'calibration_tokens' is 0, but"),
        ({"norms": "measurd"}, "did you mean 'measured'?"),
        ({"vocabulary": "all"}, "'vocabulary' is 'all', but"),
        ({"vocabulary": 280.5}, "'vocabulary' is 280.5, but"),
        ({"axes": ["neurons", "head"]}, "did you mean 'heads'?"),
        ({"axes": "neurons"}, "'axes' is 'neurons', but"),
        ({"pruning_strategy": None}, "pruning_strategy 'None' is unknown"),
        ({"aggregate": None}, "Write mean l2"),
        ({"budget": "bytes"}, "there is none: add target: 0.75"),
        ({"dtype": "bfloat16"}, "pass torch.bfloat16"),
        ({"calibration_data": "one text"}, "give several texts"),
        ({"calibration_data": [{"labels": [1]}]}, "calibration_data[0] is {'labels': [1]}, which"),
        ({"search": True}, "pass target_params= and calibration_data="),
        (
            {"search": {"candidate": 3}, "calibration_data": [torch.arange(256)]},
            "did you mean 'candidates'?",
        ),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_mistakes_are_named_before_anything_is_computed(
    settings: dict[str, Any], said: str
) -> None:
    with pytest.raises(UsageError) as caught:
        MinitronPruner(teacher(), 4e4, **settings)
    assert said in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("shape", [{"neurons": "many"}, {"neurons": None, "layers": 0}])
@pytest.mark.usefixtures("unchecked")
def test_sizes_that_are_none(shape: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="'shape"):
        MinitronPruner(teacher(), shape=shape)


@pytest.mark.usefixtures("unchecked")
def test_numbers_of_other_kinds_are_numbers() -> None:
    """As they come out of NumPy, or out of a configuration file."""
    plain, other = (
        MinitronPruner(teacher(), count, multiple=step)  # type: ignore[arg-type]
        for count, step in ((4e4, 8), ("4e4", np.int64(8)))
    )
    assert (plain.target, plain.plan) == (other.target, other.plan)


@pytest.mark.usefixtures("unchecked")
def test_a_name_is_no_teacher() -> None:
    with pytest.raises(UsageError, match="teacher is 'gpt2', no transformers model"):
        MinitronPruner("gpt2", 4e4)  # type: ignore[arg-type]


@pytest.mark.parametrize(("target", "said"), [(1e9, "cannot be cut out"), (100.0, "The nearest:")])
def test_a_target_that_cannot_be_met(
    target: float, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nexus.models.compression.distillation.pruner.own_text", None)
    pruner = MinitronPruner(teacher(), target)
    with pytest.raises(UsageError, match=said):
        pruner.prune_and_create_student()


def test_shapes_are_told_apart_by_short_distillation() -> None:
    """The first 24,000 tokens are for importance, those that follow for the search."""
    text = torch.randint(250, (27_000,), generator=torch.Generator().manual_seed(0))
    asked = {"candidates": 2, "zero_shot_tokens": 500, "tokens": 1_024, "tokens_per_step": 256}
    pruner = MinitronPruner(
        teacher(), target=0.75, multiple=4, calibration_data=[text], search=asked,
        depth="norm_ratio", aggregate=("l2", "mean"),
    )  # fmt: skip
    student = pruner.prune_and_create_student()
    assert pruner.ranking is not None and pruner.pruned is not None
    assert [len(rung) for rung in pruner.ranking.divergences] == [
        3,
        2,
    ]  # as many shapes as there are
    assert pruner.pruned.sizes == pruner.ranking.candidates[pruner.ranking.winner]
    assert abs(count(student) / count(teacher()) / 0.75 - 1) <= 0.02


def test_with_one_shape_there_is_nothing_to_choose(capsys: pytest.CaptureFixture[str]) -> None:
    text = torch.randint(250, (1_000,), generator=torch.Generator().manual_seed(0))
    pruner = MinitronPruner(
        teacher(), target=0.8, axes=("neurons",), multiple=4, calibration_data=[text], search=True
    )
    pruner.prune_and_create_student()
    assert pruner.ranking is None and "only one shape" in capsys.readouterr().err


@pytest.mark.parametrize("target", [None, 0.7])
def test_fewer_tokens_come_with_a_tokenizer_and_a_teacher(target: float | None) -> None:
    whole, tokenizer = WORKSPACE["with_words"](layers=3)
    pruner = MinitronPruner(
        whole,
        target=target,
        calibration_data=TEXTS,
        tokenizer=tokenizer,
        vocabulary=320,
        multiple=8,
    )
    student = pruner.prune_and_create_student()
    assert pruner.narrowed is not None
    found = pruner.pruned.findings if pruner.pruned else pruner.narrowed.findings
    assert SAVED in {proof.name for proof in found}
    assert target is None or abs(count(student) / count(whole) / target - 1) <= 0.02
    small, teacher = pruner.narrowed.vocabulary.tokenizer, pruner.narrowed.model
    assert len(small) == 320 == student.config.vocab_size == teacher.config.vocab_size
    ids = torch.tensor(small(TEXTS[0])["input_ids"])[None]
    loss = KnowledgeDistiller(teacher=teacher, student=student).compute_loss(ids, labels=ids)
    loss.backward()
    assert all(one.grad is None for one in whole.parameters())
    with torch.no_grad():
        for one in student.parameters():
            one.zero_()
    assert all(one.abs().max() > 0 for one in whole.parameters())


def test_fewer_tokens_need_text_and_its_tokenizer() -> None:
    with pytest.raises(UsageError, match="pass calibration_data= and tokenizer="):
        MinitronPruner(teacher(), vocabulary=300)


def test_norms_can_be_measured() -> None:
    """To see it fail: leave norms out of the plan."""
    settings: dict[str, Any] = {"multiple": 8, "repair": False, "axes": ["hidden"]}
    data = {"calibration_data": TEXTS, "tokenizer": TINY["make_tokenizer"]()}
    one, other = (
        MinitronPruner(teacher(), 40_296.0, norms=norms, **settings, **data)  # type: ignore[arg-type]
        .prune_and_create_student()
        .state_dict()["model.norm.weight"]
        for norms in ("rescaled", "measured")
    )
    assert one.shape == other.shape and not torch.equal(one, other)


def test_a_shape_and_scores_that_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To see it fail: leave scores out of the call of make."""
    data: dict[str, Any] = {"calibration_data": TEXTS, "tokenizer": TINY["make_tokenizer"]()}
    kept: dict[str, Any] = {"scores": tmp_path / "scores", "multiple": 8, **data}
    pruner = MinitronPruner(teacher(), shape={"neurons": 32, "layers": 3}, **kept)
    student = pruner.prune_and_create_student()
    sizes = (student.config.intermediate_size, student.config.num_hidden_layers)
    assert sizes == (32, 3)
    monkeypatch.setattr("nexus.pruning.scored.measure", None)
    again = MinitronPruner(teacher(), shape={"neurons": 40}, **kept)
    assert again.prune_and_create_student().config.intermediate_size == 40
    with pytest.raises(UsageError, match="did you mean 'neurons'"):
        MinitronPruner(teacher(), shape={"neuron": 40})


def test_so_many_tokens_are_looked_at() -> None:
    """To see it fail: leave calibration_tokens out of the plan."""
    data: dict[str, Any] = {"calibration_data": TEXTS, "tokenizer": TINY["make_tokenizer"]()}
    pruner = MinitronPruner(teacher(), 4e4, multiple=8, calibration_tokens=300, **data)
    pruner.prune_and_create_student()
    assert pruner.pruned is not None and 300 <= pruner.pruned.scores.tokens <= 1_024
