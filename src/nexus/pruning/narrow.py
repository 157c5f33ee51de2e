"""Narrow: the same model with fewer tokens. Nothing but rows of its embedding and head goes."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedModel
from transformers.initialization import no_init_weights

from nexus.errors import NexusError, UsageError
from nexus.kernels.decoder import evaluated
from nexus.proofs import Proof
from nexus.pruning.budget import Budget
from nexus.pruning.families import family_of, layers_of
from nexus.pruning.sizes import Sizes, without_number
from nexus.pruning.token_ids import renumber
from nexus.ties import check_tie, is_tied

_LIMITS = {torch.float32: 1e-4, torch.float64: 1e-9}
_COARSE = 2**-6
"""Of the largest logit: what another order of sums explains in half precision."""


@dataclass(frozen=True)
class Narrow:
    """A model with fewer tokens, and what was proved of it."""

    model: PreTrainedModel
    findings: tuple[Proof, ...]


@torch.no_grad()
def narrow(model: PreTrainedModel, ids: Int[Tensor, " kept"]) -> Narrow:
    """The model with some of its tokens; all other weights are the model's own, not copies.

    Its softmax is the model's own distribution over the kept tokens, renormalised: the logits of
    these are what they were, and those of the others are gone. So a teacher that is narrowed is
    exactly the teacher for a student that knows no other tokens.

    Args:
        model: which is left as it is.
        ids: the old ids of the tokens, whose new ids are their places. Rows of padding go.

    Raises:
        UsageError: The architecture is unknown, or has no such rows.
        NexusError: A proof failed: a bug of Nexus or of the versions installed.
    """
    small = _selected(model, ids)
    findings = (_logits(model, small, ids), _tie(model, small), _count(model, small, ids))
    for proof in findings:
        if proof.outcome == "failed":
            raise NexusError(f"Pruning proved wrong: {proof.name}: {proof.detail}. {proof.remedy}")
    return Narrow(small, findings)


def _selected(model: PreTrainedModel, ids: Tensor) -> PreTrainedModel:
    family = family_of(model)
    before = Sizes.of(model.config, family)
    if int(ids.max()) >= before.vocabulary:
        raise UsageError(
            f"{type(model).__name__} has {before.vocabulary} rows of tokens, but its tokenizer has "
            f"ids up to {int(ids.max())}: name the tokenizer that it was trained with"
        )
    places = {old: new for new, old in enumerate(ids.tolist())}
    config = replace(before, vocabulary=len(ids)).apply(model.config, family)
    renumber(config, places)
    with torch.device("meta"), no_init_weights():
        small: Any = type(model)(config)
    prefix, _ = layers_of(model, family)
    values: dict[str, Tensor] = {}
    for name, value in model.state_dict().items():
        axes = family.axes(without_number(name, prefix))
        values[name] = value
        for dim, axis in enumerate(axes):
            if axis == "vocabulary":
                values[name] = values[name].index_select(dim, ids.to(value.device))
    small.load_state_dict(values, assign=True)
    _share_buffers(model, small)
    small.tie_weights()
    small.eval()
    if small.can_generate():
        small.generation_config = copy.deepcopy(model.generation_config)
        renumber(small.generation_config, places)
    return small  # type: ignore[no-any-return]


def _share_buffers(model: PreTrainedModel, small: PreTrainedModel) -> None:
    """What is computed and not saved, such as the frequencies of positions."""
    for whole, part in zip(model.modules(), small.modules(), strict=True):
        for name, value in whole.named_buffers(recurse=False):
            part._buffers[name] = value
        for name, value in vars(whole).items():
            if isinstance(value, Tensor):
                setattr(part, name, value)


def _logits(model: PreTrainedModel, small: PreTrainedModel, ids: Tensor) -> Proof:
    """The logits of kept tokens, on a text of them; or of whatever else its head tells."""
    text = torch.randint(len(ids), (1, 16), generator=torch.Generator().manual_seed(0))
    old = ids[text].to(model.device)
    with evaluated(model), evaluated(small):
        whole, part = model(input_ids=old)[0], small(input_ids=text.to(model.device))[0]
    if model.get_output_embeddings() is not None:  # type: ignore[no-untyped-call]
        whole = whole[..., ids.to(model.device)]
    difference = float((whole.float() - part.float()).abs().max().nan_to_num(nan=torch.inf))
    limit = _LIMITS.get(model.dtype, _COARSE * float(whole.abs().max()))
    holds = difference <= limit
    return Proof(
        group="pruning",
        name="kept tokens have the logits that they had",
        outcome="proved" if holds else "failed",
        detail=f"they differ by {difference:.2g} at the most, at most {limit:.2g}",
        value=difference,
        limit=limit,
        remedy="" if holds else "Report this with the model's configuration",
    )


def _tie(model: PreTrainedModel, small: PreTrainedModel) -> Proof:
    name = "with fewer tokens its head is its embedding as before"
    if small.get_output_embeddings() is None:  # type: ignore[no-untyped-call]
        told = "it has no head over tokens"
        return Proof(group="pruning", name=name, outcome="skipped", detail=told)
    check_tie(small)
    same = is_tied(model) == is_tied(small)
    return Proof(
        group="pruning",
        name=name,
        outcome="proved" if same else "failed",
        detail="tied" if is_tied(small) else "not tied",
        remedy="" if same else "Report this with the model's configuration",
    )


def _count(model: PreTrainedModel, small: PreTrainedModel, ids: Tensor) -> Proof:
    """That so many parameters are left as were counted on the whole model."""
    family = family_of(model)
    sizes = replace(Sizes.of(model.config, family), vocabulary=len(ids))
    expected = Budget(model, family, "parameters")(sizes, range(sizes.layers))
    count = sum(parameter.numel() for parameter in small.parameters())
    return Proof(
        group="pruning",
        name="with fewer tokens it has as many parameters as they say",
        outcome="proved" if count == expected else "failed",
        detail=f"{count:,} are there and {expected:,} expected",
        value=float(abs(count - expected)),
        limit=0.0,
        remedy="" if count == expected else "Report this with the model's configuration",
    )
