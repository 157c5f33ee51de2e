"""A language model cut in two at its head, and the proof that nothing was lost by cutting."""

from __future__ import annotations

import inspect
import sys
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from nexus.batch import IGNORED, PADDING, Batch
from nexus.errors import UsageError
from nexus.kernels.decoder import backbone, evaluated, without_adapters
from nexus.signals import Finish, Head

_MULTIPLIED_BY = {
    "cohere": "logit_scale",
    "cohere2": "logit_scale",
    "cohere2_moe": "logit_scale",
    "cohere_compass_text": "logit_scale",
    "falcon_h1": "lm_head_multiplier",
    "hyperclovax": "logits_scaling",
}
_DIVIDED_BY = {
    "granite": "logits_scaling",
    "granite_swa": "logits_scaling",
    "granitemoe": "logits_scaling",
    "granitemoe_swa": "logits_scaling",
    "granitemoehybrid": "logits_scaling",
    "granitemoeshared": "logits_scaling",
    "inkling_text": "logits_mup_width_multiplier",
    "minicpm3": "logits_scaling",
}
"""Families whose logits are scaled, and the configuration's name of the factor."""

_SOFTCAPS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")

_TOLERANCES = {torch.float32: 1e-3, torch.float64: 1e-6}
_COARSE_TOLERANCE = 0.12
"""Relative error that rounding explains in half precision: 0.04 and 0.36 were measured without and
with a leak (30 layers, bfloat16)."""


@dataclass(frozen=True)
class Trunk:
    """A language model cut at its head, which lets a loss apply the head chunk by chunk."""

    model: nn.Module
    """A transformers causal language model, or one that PEFT wraps."""
    vocabulary: int
    """How many of the head's rows stand for tokens."""
    packed: bool = True
    """Rows may hold several documents, kept apart by `position_ids` that restart. Otherwise each
    row holds one, and padding is masked the classic way."""

    def hidden(self, batch: Batch) -> Float[Tensor, "rows length hidden"]:
        """The final hidden states, which enter the head. Documents of a row do not see each other.

        Raises:
            UsageError: A row holds several documents, and they cannot be kept apart.
        """
        inputs: dict[str, Any] = {"input_ids": batch.input_ids, "use_cache": False}
        if self._takes_positions:
            inputs["position_ids"] = batch.position_ids
        if not (self.packed and self._takes_positions):
            self._refuse_packed_rows(batch)
            inputs["attention_mask"] = (batch.documents != PADDING).long()
        states: Tensor = self._backbone(**inputs)[0]
        return states

    def head(self) -> Head:
        """The head as it is now, with the gradient reaching whatever of it is trained.

        Raises:
            UsageError: The head is of a kind whose rows cannot be told.
        """
        model = without_adapters(self.model)
        weight, bias = _rows(_output_layer(model))
        config = model.config.get_text_config()
        return Head(weight, bias, Finish(_scale(config), _softcap(config)), self.vocabulary)

    @cached_property
    def _backbone(self) -> PreTrainedModel:
        return backbone(self.model)

    @cached_property
    def _takes_positions(self) -> bool:
        return "position_ids" in inspect.signature(self._backbone.forward).parameters

    def _refuse_packed_rows(self, batch: Batch) -> None:
        inside = batch.documents != PADDING
        first = batch.documents.masked_fill(~inside, batch.documents.max()).amin(1, keepdim=True)
        if bool(((batch.documents != first) & inside).any()):
            raise UsageError(
                f"A row holds several documents, which {_described(self.model)} cannot keep apart. "
                "Set data.packing: false."
            )


def split_head(model: nn.Module, vocabulary: int, packed: bool = True) -> Trunk:
    """Cut `model` at its head.

    Args:
        model: A transformers causal language model, or one that PEFT wraps.
        vocabulary: How many of the head's rows stand for tokens; the rest is padding.
        packed: Whether rows may hold several documents.

    Raises:
        UsageError: The head is of a kind that is not understood, or has fewer rows than that.
    """
    trunk = Trunk(model, vocabulary, packed)
    rows = trunk.head().weight.shape[0]
    if rows < vocabulary:
        raise UsageError(
            f"The head of {_described(model)} has {rows} rows, but the tokenizer has {vocabulary} "
            "ids. Use the tokenizer that belongs to the model, or resize the model's embeddings."
        )
    return trunk


def head_rows(model: nn.Module) -> int:
    """How many rows the head of `model` has, padding included."""
    weight: Tensor = _rows(_output_layer(without_adapters(model)))[0]
    return weight.shape[0]


@torch.no_grad()
def prove(trunk: Trunk) -> None:
    """Prove on the model itself that cutting off its head and packing rows change nothing.

    On a few random tokens: the head over the hidden states gives the model's own logits, and two
    documents in one row (or, unpacked, one beside padding) give the hidden states of each alone.

    Raises:
        UsageError: They do not. Names the architecture, the attention and the remedy.
    """
    with evaluated(trunk.model):
        device = without_adapters(trunk.model).device
        generator = torch.Generator().manual_seed(0)
        first, other, second = (
            torch.randint(trunk.vocabulary, (length,), generator=generator).to(device)
            for length in (7, 7, 9)
        )
        _prove_head(trunk, second)
        if trunk.packed:
            _prove_packing(trunk, first, other, second)
        else:
            _prove_padding(trunk, second)


def can_be_packed(model: PreTrainedModel) -> bool:
    """Whether several documents in one row of a model do not see each other, tried on itself."""
    try:
        prove(split_head(model, head_rows(model)))
    except UsageError:
        return False
    return True


def _prove_head(trunk: Trunk, tokens: Int[Tensor, " n"]) -> None:
    hidden = trunk.hidden(_row([tokens]))[0]
    ours = trunk.head().logits(hidden)
    theirs = trunk.model(input_ids=tokens[None], use_cache=False).logits[0, :, : trunk.vocabulary]
    error = _relative_error(ours, theirs)
    if error > _tolerance(hidden):
        raise UsageError(
            f"{_described(trunk.model)} does something between its hidden states and its logits "
            f"that Nexus does not know (relative difference {error:.2g}). Use another architecture."
        )


def _prove_packing(trunk: Trunk, first: Tensor, other: Tensor, second: Tensor) -> None:
    after, changed = (
        trunk.hidden(_row([document, second]))[0, len(first) :] for document in (first, other)
    )
    alone = trunk.hidden(_row([second]))[0]
    error = max(_relative_error(changed, after), _typical_error(after, alone))
    if error > _tolerance(alone):
        raise UsageError(
            f"Documents in one row see each other in {_described(trunk.model)} (relative "
            f"difference {error:.2g}). Set data.packing: false, or use attention that keeps "
            "documents apart (sdpa)."
        )


def _prove_padding(trunk: Trunk, tokens: Tensor) -> None:
    alone = trunk.hidden(_row([tokens]))[0]
    for before, after in ((0, 5), (5, 0)):
        padded, otherwise = (
            trunk.hidden(_row([tokens], before, after, filler))[0, before : before + len(tokens)]
            for filler in (0, 1)
        )
        error = max(_relative_error(otherwise, padded), _typical_error(padded, alone))
        if error > _tolerance(alone):
            raise UsageError(
                f"Padding {'before' if before else 'after'} a document changes its hidden states "
                f"in {_described(trunk.model)} (relative difference {error:.2g}). Use another "
                "architecture or attention implementation."
            )


def _row(documents: list[Tensor], before: int = 0, after: int = 0, filler: int = 0) -> Batch:
    """One row of `documents`, with padding on either side."""
    pad = documents[0].new_full
    pieces = [pad((before,), filler), *documents, pad((after,), filler)]
    numbers = [PADDING, *range(len(documents)), PADDING]
    tokens = torch.cat(pieces)[None]
    positions = torch.cat([torch.arange(len(piece), device=piece.device) for piece in pieces])
    owners = torch.cat(
        [torch.full_like(piece, number) for piece, number in zip(pieces, numbers, strict=True)]
    )
    nothing = torch.zeros_like(tokens)
    return Batch(
        input_ids=tokens,
        targets=torch.full_like(tokens, IGNORED),
        position_ids=positions[None],
        documents=owners[None],
        parts=nothing,
        tasks=nothing,
    )


def _relative_error(ours: Tensor, theirs: Tensor) -> float:
    difference = (ours.float() - theirs.float()).norm() / theirs.float().norm().clamp_min(1e-30)
    return float(difference.nan_to_num(nan=torch.inf))


def _typical_error(ours: Tensor, theirs: Tensor) -> float:
    """The median over positions: sums in another order can throw a single position far off."""
    errors = (ours.float() - theirs.float()).norm(dim=-1)
    relative = errors / theirs.float().norm(dim=-1).clamp_min(1e-30)
    return float(relative.nan_to_num(nan=torch.inf).median())


def _tolerance(values: Tensor) -> float:
    return _TOLERANCES.get(values.dtype, _COARSE_TOLERANCE)


def _described(model: nn.Module) -> str:
    whole = without_adapters(model)
    return f"{type(whole).__name__} (attention: {whole.config._attn_implementation})"


def _scale(config: Any) -> float:
    if name := _MULTIPLIED_BY.get(config.model_type):
        return float(getattr(config, name))
    if name := _DIVIDED_BY.get(config.model_type):
        return 1.0 / float(getattr(config, name))
    return 1.0


def _softcap(config: Any) -> float | None:
    for name in _SOFTCAPS:
        if cap := getattr(config, name, None):
            return float(cap)
    return None


def _output_layer(model: Any) -> nn.Module:
    layer: nn.Module | None = model.get_output_embeddings()
    if layer is None:
        raise UsageError(
            f"{type(model).__name__} has no language-model head. Load the model for causal "
            "language modelling, for example with AutoModelForCausalLM."
        )
    return layer


def _rows(layer: nn.Module) -> tuple[Tensor, Tensor | None]:
    """The weight and bias that `layer` applies, adapters included."""
    if isinstance(layer, nn.Linear) and type(layer).forward is nn.Linear.forward:
        if type(layer.weight) not in (nn.Parameter, Tensor):
            raise _not_understood(layer, f"its weight is a {type(layer.weight).__name__}")
        return layer.weight, layer.bias
    if "peft" in sys.modules:
        from peft.tuners import lora
        from peft.utils.other import ModulesToSaveWrapper

        if isinstance(layer, ModulesToSaveWrapper):
            if layer.disable_adapters or not layer.active_adapters:
                return _rows(layer.original_module)
            return _rows(layer.modules_to_save[layer.active_adapters[0]])
        if type(layer) is lora.Linear:
            return _rows_with_lora(layer)
    raise _not_understood(layer, "only plain linear layers and LoRA on them are understood")


def _rows_with_lora(layer: Any) -> tuple[Tensor, Tensor | None]:
    """W + Σ scaling · BA, with the gradient reaching every A and B (arXiv:2106.09685)."""
    weight, bias = _rows(layer.get_base_layer())
    if layer.disable_adapters or layer.merged:
        return weight, bias
    for adapter in layer.active_adapters:
        if adapter not in layer.lora_A:
            continue
        if adapter in layer.lora_variant or layer.lora_bias[adapter]:
            raise _not_understood(layer, "its adapter is more than A and B (DoRA, bias, …)")
        if not isinstance(layer.lora_dropout[adapter], nn.Identity):
            raise UsageError(
                f"The adapter '{adapter}' on the head has dropout, which cannot be applied to the "
                "head's weights. Set lora_dropout: 0, or leave the head out of the adapter."
            )
        weight = weight + layer.get_delta_weight(adapter)
    return weight, bias


def _not_understood(layer: nn.Module, reason: str) -> UsageError:
    return UsageError(
        f"The language-model head is a {type(layer).__module__}.{type(layer).__name__}: {reason}. "
        "Leave the head out of the quantisation or the adapter."
    )
