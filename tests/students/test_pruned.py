"""A student cut out of the teacher: what a recipe says comes out, and what it cannot is refused."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from nexus.batch import Batch
from nexus.data.loader import from_padded
from nexus.errors import UsageError
from nexus.planning.hollow import Hollow
from nexus.pruning.families import family_of
from nexus.pruning.sizes import Sizes
from nexus.pruning.target import Types
from nexus.students.pruned import Pruned, Shape

TINY = runpy.run_path(str(Path(__file__).parents[2] / "examples" / "tiny.py"))


def teacher() -> PreTrainedModel:
    """4 layers, hidden 32, 64 neurons, 4 heads in 2 groups."""
    model: PreTrainedModel = TINY["make_model"](layers=4, seed=1)
    return model


@pytest.fixture
def text() -> list[Batch]:
    return [from_padded(torch.randint(200, (2, 40)))]


def count(model: PreTrainedModel) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_a_target_is_met_in_float32(text: list[Batch], tmp_path: Path) -> None:
    whole = teacher().bfloat16()
    target = 0.8 * count(whole)
    student = Pruned(target_params=target, multiple=8).build(whole, text, tmp_path, seed=0)
    assert abs(count(student) / target - 1) <= 0.02
    assert {parameter.dtype for parameter in student.parameters()} == {torch.float32}


def test_a_share_of_any_budget_is_met(text: list[Batch], tmp_path: Path) -> None:
    whole = teacher()
    spec = Pruned.parse({"target": 0.8, "budget": "without_embeddings", "multiple": 4})
    student = spec.build(whole, text, tmp_path, seed=0)
    tables = whole.get_input_embeddings().weight.numel()
    heads = 0 if whole.config.tie_word_embeddings else tables
    left = (count(model) - tables - heads for model in (student, whole))
    after, before = left
    assert abs(after / before / 0.8 - 1) <= 0.02


def test_bytes_are_counted_as_a_run_saves_them(text: list[Batch], tmp_path: Path) -> None:
    """To see it fail: count in the teacher's type."""
    whole = teacher().bfloat16()
    spec, before = Pruned.parse({"target": 0.9, "budget": "bytes", "multiple": 4}), count(whole)
    for saved in (torch.float32, torch.bfloat16):
        types = Types(saved=saved)
        student = spec.build(whole, text, tmp_path, seed=0, types=types)
        assert saved.itemsize * count(student) / (2 * before) == pytest.approx(0.9, rel=0.02)
        sizes = spec.sizes(Hollow(whole.config, torch.bfloat16).model, types)
        assert sizes == Sizes.of(student.config, family_of(student))


@pytest.mark.parametrize("kind", ["meta", "hollow"])
def test_a_latency_is_foreseen_without_weights_and_without_a_clock(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To see it fail: in target.is_hollow, look at the device alone."""
    monkeypatch.setattr("nexus.pruning.latency.seconds_a_token", None)
    with torch.device("meta"):
        empty = teacher() if kind == "meta" else Hollow(teacher().config).model
    asked = {"kind": "pruned", "budget": "latency", "multiple": 8}
    before = Sizes.of(empty.config, family_of(empty))
    assert Pruned.parse(asked | {"target": 0.7}).sizes(empty) != before
    assert Pruned.parse(asked | {"target": 12.0}).sizes(empty) == before


def test_a_shape_is_what_it_says(text: list[Batch], tmp_path: Path) -> None:
    spec = Pruned.parse({"shape": {"neurons": 32, "layers": 3, "heads": 2}, "multiple": 8})
    student = spec.build(teacher(), text, tmp_path, seed=0)
    said = student.config
    assert (said.intermediate_size, said.num_hidden_layers, said.num_attention_heads) == (32, 3, 2)
    assert said.num_key_value_heads == 2


def test_its_configuration_is_known_before_there_are_weights(
    text: list[Batch], tmp_path: Path
) -> None:
    spec = Pruned.parse({"shape": {"neurons": 32, "layers": 3}})
    with torch.device("meta"):
        foreseen = spec.config(teacher()).to_dict()
    made = spec.build(teacher(), text, tmp_path, seed=0).config.to_dict()
    for name in ("intermediate_size", "num_hidden_layers", "hidden_size", "vocab_size"):
        assert foreseen[name] == made[name]


def test_a_random_choice_is_that_of_its_seed(tmp_path: Path, text: list[Batch]) -> None:
    spec = Pruned.parse({"shape": {"neurons": 32}, "strategy": "random", "repair": False})
    one, same, other = (spec.build(teacher(), text, tmp_path, seed) for seed in (0, 0, 1))
    weights = [model.model.layers[0].mlp.up_proj.weight for model in (one, same, other)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_what_was_measured_and_decided_is_kept(
    text: list[Batch], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = Pruned.parse({"target": 0.8, "multiple": 8, "aggregate": ["l2", "variance"]})
    kept = tmp_path / "pruning"
    one = spec.build(teacher(), text, tmp_path, seed=0, workspace=kept)
    names = {path.relative_to(kept).as_posix() for path in kept.rglob("*") if path.is_file()}
    assert names == {"scores.safetensors", "pruning.json", "search/layers.json"}
    monkeypatch.setattr("nexus.pruning.scored.measure", None)
    monkeypatch.setattr("nexus.pruning.depth_search.Deletions", None)
    monkeypatch.setattr("nexus.students.cutting.meet", None)
    other = spec.build(teacher(), text, tmp_path, seed=0, workspace=kept)
    for before, after in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(before, after)


def proofs(workspace: Path) -> dict[str, str]:
    told = json.loads((workspace / "pruning.json").read_text())["proofs"]
    return {proof["name"]: proof["outcome"] for proof in told}


SAVED = "saved and loaded it gives the same logits"


def test_it_is_proved_to_be_loaded_as_what_it_is(
    text: list[Batch], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = Pruned.parse({"shape": {"neurons": 32}})
    spec.build(teacher(), text, tmp_path, seed=0, workspace=tmp_path / "one")
    assert proofs(tmp_path / "one")[SAVED] == "proved"
    monkeypatch.setattr("nexus.students.cutting.survives", None)
    spec.build(teacher(), text, tmp_path, seed=0, workspace=tmp_path / "one")  # once only
    spec.build(teacher(), text, tmp_path, 0, tmp_path / "other", saved_next=True)
    assert SAVED not in proofs(tmp_path / "other")
    other = {name for name in proofs(tmp_path / "one") if name != SAVED}
    assert other == set(proofs(tmp_path / "other"))


def test_where_only_tokens_go_all_that_applies_is_proved(text: list[Batch], tmp_path: Path) -> None:
    """The teacher has fewer already, and the student is all of it."""
    kept = tmp_path / "pruning"
    whole = teacher()
    student = Pruned(vocabulary=8).build(whole, text, tmp_path, seed=0, workspace=kept)
    assert student is not whole and student.dtype == torch.float32
    assert proofs(kept) == dict.fromkeys(
        (
            "with nothing cut it is the same model",
            "it has as many parameters as its shape says",
            "its head is its embedding as before",
            SAVED,
        ),
        "proved",
    )


def test_a_search_needs_more_text() -> None:
    search = {"candidates": 4, "tokens": 8_000, "tokens_per_step": 500, "zero_shot_tokens": 1_000}
    spec = Pruned.parse({"target": 0.8, "search": search})
    assert Pruned.parse({"target": 0.8}).tokens == 24_000
    assert spec.tokens == 24_000 + 1_000 + (2 + 4) * 500


def test_a_teacher_elsewhere_cannot_be_cut(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"not a model in this process.*local teacher"):
        Pruned(target_params=1e4).build(None, [], tmp_path, seed=0)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, "add one"),
        ({"target_params": 1e4, "shape": {"layers": 2}}, "drop all but one"),
        ({"target_params": 1e4, "target": 0.5}, "drop all but one"),
        ({"target_params": 1e4, "budget": "bytes"}, "add target: 0.75"),
        ({"shape": {"layers": 2}, "search": {}}, "drop search"),
        ({"target": 0.5, "search": {"candidate": 4}}, "did you mean 'candidates'"),
        ({"target": 0.5, "aggregate": ["mean", "max"]}, "'l2'"),
        ({"target": 0.5, "budget": "byte"}, "'bytes'"),
        ({"shape": {}}, "add one"),
        ({"target_params": -1}, "-1 is no number of parameters"),
        ({"target_params": 0.8}, "for a share of the model target: 0.8"),
        ({"shape": {"layers": 0}}, "greater than or equal to 1"),
        ({"shape": {"neuron": 8}}, "did you mean 'neurons'"),
        ({"target_params": 1e4, "strategy": "activations"}, "'activation'"),
        ({"target_params": 1e4, "axes": ["width"]}, "'neurons'"),
    ],
)
def test_mistakes_are_named(values: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        Pruned.parse(values)
    assert said in str(caught.value)


def test_what_cannot_be_cut_names_the_nearest(text: list[Batch], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nearest that it can: neurons=32"):
        Pruned.parse({"shape": {"neurons": 33}}).build(teacher(), text, tmp_path, seed=0)
    with pytest.raises(UsageError, match="cannot be cut out of a model"):
        Pruned(target_params=1e9).build(teacher(), text, tmp_path, seed=0)


def test_norms_can_be_measured(text: list[Batch], tmp_path: Path) -> None:
    """To see it fail: leave norms out of Pruned.plan."""
    made = {
        norms: Pruned.parse({"shape": {"hidden": 16}, "norms": norms, "multiple": 4})
        .build(teacher(), text, tmp_path, seed=0)
        .state_dict()["model.norm.weight"]
        for norms in ("rescaled", "measured")
    }
    assert not torch.equal(made["rescaled"], made["measured"])


def test_scores_are_kept_for_runs_with_other_targets(
    text: list[Batch], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To see it fail: in Pruned.build, keep scores in the workspace alone."""
    spec = Pruned.parse({"shape": {"neurons": 32}, "multiple": 8, "scores": "kept/scores"})
    spec.build(teacher(), text, tmp_path, seed=0, workspace=tmp_path / "one")
    assert (tmp_path / "kept" / "scores").is_file() and spec.rough.scores is None
    monkeypatch.setattr("nexus.pruning.scored.measure", None)
    other = spec.model_copy(update={"shape": Shape(neurons=40)})
    other.build(teacher(), text, tmp_path, seed=0, workspace=tmp_path / "two")
    with pytest.raises(UsageError, match="other data"):
        other.build(teacher(), [from_padded(torch.randint(200, (2, 41)))], tmp_path, seed=0)
