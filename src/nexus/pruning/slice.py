"""The cut: a smaller, ordinary model of the same class, with the weights that are kept."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import EllipsisType
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedModel
from transformers.initialization import no_init_weights

from nexus.errors import UsageError
from nexus.pruning.depth import require_same_behaviour, smaller_config
from nexus.pruning.families import Axes, Family, family_of, layers_of
from nexus.pruning.sizes import Sizes, without_number
from nexus.quantization.quantize import held_in

ByLayer = Mapping[int, Int[Tensor, "_"]]
"""Indices by the number that a layer has in the model that is cut; layers left out keep all."""


PART_BYTES = 2**23
"""How much of a matrix is cut at once."""

Rows = slice | EllipsisType


@dataclass(frozen=True)
class Kept:
    """What of a model is kept, in the order in which it will lie. What is not named is kept whole.

    As many of everything in every layer: an ordinary configuration cannot say anything else. Heads
    lie group by group, and every group keeps as many.
    """

    layers: tuple[int, ...] | None = None
    hidden: Int[Tensor, _] | None = None
    neurons: ByLayer = field(default_factory=dict)
    heads: ByLayer = field(default_factory=dict)
    groups: ByLayer = field(default_factory=dict)
    experts: ByLayer = field(default_factory=dict)
    expert_neurons: Mapping[int, Int[Tensor, "_ _"]] = field(default_factory=dict)
    """By layer, for each of its experts (before any is left out)."""
    vocabulary: Int[Tensor, _] | None = None

    def sizes(self, before: Sizes) -> Sizes:
        """How long the axes are afterwards.

        Raises:
            UsageError: Layers keep different numbers of something.
        """

        def common(name: str, kept: Mapping[int, Tensor], whole: int) -> int:
            left = range(before.layers) if self.layers is None else self.layers
            counts = {kept[layer].shape[-1] for layer in left if layer in kept} or {whole}
            if len(counts) > 1:
                raise UsageError(
                    f"The layers would keep {', '.join(map(str, sorted(counts)))} {name}: a model "
                    "has as many in every layer. Keep as many in each"
                )
            return counts.pop()

        return replace(
            before,
            layers=before.layers if self.layers is None else len(self.layers),
            hidden=before.hidden if self.hidden is None else len(self.hidden),
            vocabulary=before.vocabulary if self.vocabulary is None else len(self.vocabulary),
            neurons=common("neurons", self.neurons, before.neurons),
            heads=common("heads", self.heads, before.heads),
            groups=common("groups", self.groups, before.groups),
            experts=common("experts", self.experts, before.experts),
            expert_neurons=common("neurons", self.expert_neurons, before.expert_neurons),
        )


@torch.no_grad()
def cut(
    model: PreTrainedModel,
    kept: Kept,
    *,
    dtype: torch.dtype | None = None,
) -> PreTrainedModel:
    """A model of the same class with what is kept of `model`, its weights its own.

    Where channels of the residual stream go, the weights of the norms over it are multiplied by
    sqrt(all / kept): then removing channels that are zero changes nothing with RMSNorm, whose mean
    of squares is over fewer. `norms.fit_norms` measures others.

    Args:
        model: which is left as it is.
        kept: what to keep.
        dtype: of the new weights; the model's own when absent.

    Raises:
        UsageError: The architecture is unknown, or cannot have this shape.
    """
    family = family_of(model)
    before = Sizes.of(model.config, family)
    after = kept.sizes(before)
    _require_legal(model, family, before, after)
    _require_same_layers(model, family, before, kept.layers)
    small = blank(model, family, after, dtype or model.dtype, kept.layers)
    knife = _Knife(family, before, after, kept)
    prefix, _ = layers_of(model, family)
    values = model.state_dict()
    numbers = kept.layers or tuple(range(before.layers))
    for name, place in small.state_dict().items():
        source, layer = came_from(name, prefix, numbers)
        if source not in values:
            raise UsageError(
                f"layer {layer} of {model.config.model_type} has no {source.rpartition('.')[0]!r}, "
                "which a layer has that lies where it would come to lie. Keep other layers"
            )
        for rows in _rows(place):
            part = knife(values[source], without_number(source, prefix), layer, rows)
            if part.shape != place[rows].shape:
                raise UsageError(
                    f"{model.config.model_type} cannot have this shape: '{name}' would be "
                    f"{tuple(place.shape)}, but {tuple(part.shape)} is kept. Choose another shape"
                )
            place[rows].copy_(part)
    small.eval()  # type: ignore[no-untyped-call]
    return small


def removed(model: PreTrainedModel, kept: Kept) -> Iterator[tuple[Tensor, int, Tensor]]:
    """Every parameter of which something goes, along which dimension, and the indices that go.

    Of layers that are left out, all. Experts' neurons, which differ by expert, are not among it.
    """
    family = family_of(model)
    before = Sizes.of(model.config, family)
    prefix, _ = layers_of(model, family)
    knife = _Knife(family, before, kept.sizes(before), kept)
    numbers = tuple(range(before.layers))
    for name, value in model.named_parameters():
        _, layer = came_from(name, prefix, numbers)
        if kept.layers is not None and layer is not None and layer not in kept.layers:
            yield value, 0, torch.arange(len(value))
            continue
        for dim, axis in enumerate(family.axes(without_number(name, prefix))):
            index = None if "expert_neurons" in axis else knife.index(axis, layer)
            if index is not None:
                stays = torch.zeros(value.shape[dim], dtype=torch.bool)
                stays[index] = True
                yield value, dim, torch.nonzero(~stays).flatten()


class _Knife:
    """Takes from a tensor what is kept of it."""

    def __init__(self, family: Family, before: Sizes, after: Sizes, kept: Kept) -> None:
        self._family, self._kept = family, kept
        self._before = before
        self._narrowing = math.sqrt(before.hidden / after.hidden)

    def __call__(self, value: Tensor, kind: str, layer: int | None, rows: Rows) -> Tensor:
        """What is kept, or of that so many rows."""
        axes = self._family.axes(kind)
        for dim, axis in enumerate(axes):
            if "expert_neurons" in axis:
                value = self._by_expert(value, dim, axis, layer)
        for dim, axis in enumerate(axes):
            index = None if "expert_neurons" in axis else self.index(axis, layer)
            if index is not None:
                index = index if dim else index[rows]
                value = value.index_select(dim, index.to(value.device))
            elif dim == 0:
                value = value[rows]
        return self._rescaled(value, kind, axes)

    def index(self, axis: str, layer: int | None) -> Tensor | None:
        """The indices that are kept of an axis; nothing if all are."""
        parts, begin, some = [], 0, False
        for atom in axis.split("+"):
            if atom == "-":
                return None
            length, index = self._before.length(atom), self._atom(atom, layer)
            some = some or index is not None
            parts.append(begin + (torch.arange(length) if index is None else index.cpu()))
            begin += length
        return torch.cat(parts) if some else None

    def _atom(self, atom: str, layer: int | None) -> Tensor | None:
        kept, width = self._kept, self._before.head_dim
        number = -1 if layer is None else layer
        match atom:
            case "hidden":
                return kept.hidden
            case "vocabulary":
                return kept.vocabulary
            case "neurons":
                return kept.neurons.get(number)
            case "experts":
                return kept.experts.get(number)
            case "groups":
                return entries(kept.groups.get(number), width)
            case "heads":
                return entries(kept.heads.get(number), width)
            case "triples":
                return entries(kept.heads.get(number), 3 * width)
            case _:
                raise KeyError(atom)

    def _by_expert(self, value: Tensor, dim: int, axis: str, layer: int | None) -> Tensor:
        index = self._kept.expert_neurons.get(-1 if layer is None else layer)
        if index is None:
            return value
        length, copies = self._before.expert_neurons, axis.count("+") + 1
        index = torch.cat([index + copy_ * length for copy_ in range(copies)], dim=1)
        index = index.to(value.device)
        shape = [1] * value.dim()
        shape[0], shape[dim] = index.shape
        wanted = list(value.shape)
        wanted[dim] = index.shape[1]
        return value.gather(dim, index.view(shape).expand(wanted))

    def _rescaled(self, value: Tensor, kind: str, axes: Axes) -> Tensor:
        owner, _, part = kind.rpartition(".")
        is_norm = axes == ("hidden",) and part == "weight"
        if not is_norm or not any(
            owner == norm or owner.endswith(f".{norm}") for norm in self._family.rescaled
        ):
            return value
        if self._narrowing == 1:
            return value
        offset = float(self._family.unit_offset)
        return ((value.float() + offset) * self._narrowing - offset).to(value.dtype)


def _rows(place: Tensor) -> Iterator[Rows]:
    """The rows of a large matrix in parts, so that what is cut of it is not there twice at once."""
    size = place.numel() * place.element_size()
    if place.dim() != 2 or size <= PART_BYTES:
        yield ...
        return
    step = -(-len(place) * PART_BYTES // size)
    for start in range(0, len(place), step):
        yield slice(start, start + step if start + step < len(place) else None)


def entries(heads: Tensor | None, width: int) -> Tensor | None:
    """The indices of what belongs to heads of so many entries each."""
    if heads is None:
        return None
    return (heads[:, None] * width + torch.arange(width, device=heads.device)).flatten()


def came_from(name: str, prefix: str, numbers: tuple[int, ...]) -> tuple[str, int | None]:
    """Where a tensor or a part of the new model comes from, and from which layer."""
    if not name.startswith(f"{prefix}."):
        return name, None
    number, _, rest = name.removeprefix(f"{prefix}.").partition(".")
    return f"{prefix}.{numbers[int(number)]}.{rest}", numbers[int(number)]


def blank(
    model: PreTrainedModel,
    family: Family,
    after: Sizes,
    dtype: torch.dtype,
    layers: tuple[int, ...] | None = None,
) -> PreTrainedModel:
    """A model of the new shape, its weights not yet written; of the first layers if none are named.

    Raises:
        UsageError: The architecture's own configuration refuses the shape.
    """
    before = Sizes.of(model.config, family)
    numbers = layers or tuple(range(after.layers))
    config = smaller_config(model.config, numbers, before.layers)
    config = after.apply(config, family)
    config.dtype = config.get_text_config().dtype = dtype
    with no_init_weights():
        made: Any = type(model)(config)
    made.tie_weights()
    if made.can_generate():
        made.generation_config = copy.deepcopy(model.generation_config)
    held_in(made, dtype)  # before it moves: in fp32 it may not fit where it goes
    small: PreTrainedModel = made.to(device=model.device)
    return small


def _require_same_layers(
    model: PreTrainedModel, family: Family, before: Sizes, kept: tuple[int, ...] | None
) -> None:
    """Refuse layers that would do something else at their new places: all else left whole."""
    if kept is None:
        return
    config = smaller_config(model.config, kept, before.layers)
    with torch.device("meta"), no_init_weights():
        made: Any = type(model)(config)
    _, theirs = layers_of(model, family)
    _, ours = layers_of(made, family)
    for new, old in enumerate(kept):
        require_same_behaviour(model, theirs[old], ours[new], (old, new))


def _require_legal(model: PreTrainedModel, family: Family, before: Sizes, after: Sizes) -> None:
    problems = []
    if after.heads % after.groups:
        problems.append(f"{after.heads} heads do not divide into {after.groups} groups")
    if family.heads_fill_hidden and after.heads * after.head_dim != after.hidden:
        fitting = after.hidden / after.head_dim
        problems.append(
            f"its heads of {after.head_dim} entries must fill the hidden size: {after.hidden} "
            f"takes {fitting:g} heads, not {after.heads}"
        )
    text = model.config.get_text_config()
    chosen = int(getattr(text, "num_experts_per_tok", None) or 1)
    if after.experts != before.experts and after.experts < chosen:
        problems.append(f"a token goes to {chosen} experts, and {after.experts} would be left")
    if after.vocabulary != before.vocabulary and min(after.vocabulary, after.hidden) < 1:
        problems.append("nothing would be left")
    if problems:
        raise UsageError(f"{model.config.model_type} cannot have this shape: {problems[0]}")
