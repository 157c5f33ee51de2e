"""A runtime beside its model: nothing lies between equals, and a known distance is found."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from nexus.errors import NexusError
from nexus.evaluation.runtime import OWN_TEXT, TOKENS, beside, followed, written

SMALL = runpy.run_path(str(Path(__file__).parents[1] / "workspace.py"))
DOCUMENTS = [list(range(5, 5 + length)) for length in (3, 9, 17)]


class Elsewhere:
    """The model itself, with something done to its logits."""

    def __init__(self, model: PreTrainedModel, shift: float = 0.0, scale: float = 1.0) -> None:
        self.model, self.shift, self.scale = model, shift, scale
        self.ids = torch.zeros(1, 0, dtype=torch.long)

    def forget(self) -> None:
        self.ids = self.ids[:, :0]

    @torch.no_grad()
    def read(self, ids: Tensor) -> Tensor:
        self.ids = torch.cat([self.ids, ids], dim=1)
        logits: Tensor = self.model(self.ids).logits[:, -ids.shape[1] :]
        return self.scale * logits + self.shift


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    made: PreTrainedModel = SMALL["make_model"](layers=2, seed=1).eval()
    return made


@torch.no_grad()
def test_equals_agree_wholly_and_a_softer_one_lies_as_far_as_it_says(
    model: PreTrainedModel,
) -> None:
    same = followed(model, Elsewhere(model, shift=3.0), DOCUMENTS)
    assert (same.tokens, same.agreement.value) == (29, 1.0)
    assert same.kl.value == pytest.approx(0, abs=1e-12)
    softer = followed(model, Elsewhere(model, scale=0.5), DOCUMENTS)
    assert softer.agreement.value == 1.0 and softer.kl.n == 3
    total = 0.0
    for ids in DOCUMENTS:
        logits = model(torch.tensor([ids])).logits.double()
        own, told = torch.distributions.Categorical(logits=logits), 0.5 * logits
        other = torch.distributions.Categorical(logits=told)
        total += float(torch.distributions.kl_divergence(own, other).sum())
    assert softer.kl.value == pytest.approx(total / 29, rel=1e-6)


def test_what_is_not_finite_is_refused_and_so_is_no_text(model: PreTrainedModel) -> None:
    with pytest.raises(NexusError, match="not finite"):
        followed(model, Elsewhere(model, scale=float("nan")), DOCUMENTS)
    with pytest.raises(NexusError, match="no text"):
        followed(model, Elsewhere(model), [])


def test_both_are_timed_within_what_the_model_reads(model: PreTrainedModel) -> None:
    timed = written(model, Elsewhere(model), seconds=0.0)
    limit = model.config.max_position_embeddings
    assert timed.prompt_tokens + timed.new_tokens <= limit and timed.speedup.n == 1
    assert timed.speedup.value == pytest.approx(timed.runtime.value / timed.model.value)


def test_without_text_the_model_writes_some_where_it_can(model: PreTrainedModel) -> None:
    model.generation_config.bos_token_id = 1
    facts = beside(model, Elsewhere(model), seconds=0.0)
    assert facts["text"] == OWN_TEXT and TOKENS <= facts["tokens"] < 2 * TOKENS
    assert facts["agreement"]["value"] == 1.0 and facts["decode"]["model_dtype"] == "float32"
    for config in (model.config, model.generation_config):
        config.bos_token_id = config.eos_token_id = None
    facts = beside(model, Elsewhere(model), seconds=0.0)
    assert (facts["text"], facts["kl"]) == ("none", None) and facts["decode"]["runtime"]
