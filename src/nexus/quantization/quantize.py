"""quantize(model, scheme): the same model with its linear layers in few bits."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from nexus.errors import UsageError
from nexus.quantization.config import config_of
from nexus.quantization.grid import Grid, round_to_grid
from nexus.quantization.linear import DynamicLinear, PackedLinear
from nexus.quantization.scheme import Scheme

HEAD = "it is the head, which stays as precise as the embedding"


@dataclass(frozen=True)
class Quantized:
    """A model in few bits, and what became of each of its layers."""

    model: PreTrainedModel
    scheme: Scheme
    layers: tuple[str, ...]
    """Those that were quantised."""
    kept: dict[str, str]
    """Those that were not, though they hold matrices, and why not; embeddings apart."""

    @property
    def left_out(self) -> dict[str, str]:
        """Of those that were kept, the ones that could not be quantised: all but the head."""
        return {name: why for name, why in self.kept.items() if why != HEAD}


def quantize(
    model: PreTrainedModel,
    scheme: Scheme,
    *,
    importance: Mapping[str, Tensor] | None = None,
    dtype: torch.dtype | None = None,
) -> Quantized:
    """Round the weights of every linear layer but the head; embeddings and norms stay as they are.

    Each weight goes to the nearest value of its group's grid. The grid reaches to the group's ends,
    or, where it is known how strong each input is, as far as makes the error of what leaves the
    layer least. Nothing is trained.

    Args:
        model: is left as it is.
        scheme: into how many bits.
        importance: the mean square of each input of a layer, by the layer's name.
        dtype: of everything that is not quantised, scales included; the model's if not given.

    Raises:
        UsageError: It is quantised already, nothing in it can be quantised like this, or a weight
            is not finite.
    """
    refuse_quantized(model)
    _refuse_broken(model)
    fitting, kept = plan(model, scheme)

    def rounded(name: str, weight: Tensor) -> Grid:
        return round_to_grid(
            weight, scheme.bits, scheme.group, symmetric=scheme.symmetric,
            dtype=dtype or weight.dtype,
            importance=None if importance is None else importance.get(name),
        )  # fmt: skip

    made = with_layers(model, fitting, scheme, rounded)
    if dtype is not None:
        held_in(made, dtype)
    ignored = linear_names(kept, model)
    vars(made.config)["quantization_config"] = config_of(scheme, ignored)
    nn.Module.eval(made)
    return Quantized(made, scheme, tuple(fitting), kept)


def plan(model: PreTrainedModel, scheme: Scheme) -> tuple[dict[str, nn.Linear], dict[str, str]]:
    """The layers that can be quantised, and of all others that hold matrices why not.

    Raises:
        UsageError: None can be.
    """
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()  # type: ignore[no-untyped-call]
    apart = {id(part) for part in model.modules() if isinstance(part, nn.Embedding)}
    body = {id(part) for part in model.base_model.modules()}
    fitting: dict[str, nn.Linear] = {}
    kept: dict[str, str] = {}
    for name, part in model.named_modules():
        matrices = [one for one in part.parameters(recurse=False) if one.dim() > 1]
        if not matrices or id(part) in apart or part is embedding:
            continue
        if part is head or (head is None and id(part) not in body):
            kept[name] = HEAD
        elif type(part) is not nn.Linear:
            kept[name] = f"it is a {type(part).__name__}, no Linear"
        elif scheme.group is not None and part.in_features % scheme.group:
            kept[name] = (
                f"its rows of {part.in_features} are no multiple of group_size {scheme.group}"
            )
        else:
            fitting[name] = part
    if not fitting:
        raise UsageError(_nothing(model, scheme, kept))
    return fitting, kept


def refuse_quantized(model: PreTrainedModel) -> None:
    """Refuse a model that is in few bits already.

    Raises:
        UsageError: It is.
    """
    if getattr(model.config, "quantization_config", None) is not None or any(
        isinstance(part, PackedLinear | DynamicLinear) for part in model.modules()
    ):
        raise UsageError(
            f"{type(model).__name__} is quantised already: quantise the model that it was made of"
        )


def _refuse_broken(model: PreTrainedModel) -> None:
    """Refuse weights that are no numbers: what was made of them could not be compared either."""
    for name, weight in model.named_parameters():
        if not bool(weight.isfinite().all()):
            raise UsageError(f"{name} holds NaN or Inf: quantise a checkpoint from before it broke")


def with_layers(
    model: PreTrainedModel,
    layers: Mapping[str, nn.Linear],
    scheme: Scheme,
    rounded: Callable[[str, Tensor], Grid],
) -> PreTrainedModel:
    """A copy of which these layers are in few bits. Their weights are never held twice."""
    shared = {id(layer.weight): layer.weight for layer in layers.values()}
    made = copy.deepcopy(model, dict(shared))
    for name, layer in layers.items():
        grid = rounded(name, layer.weight.detach())
        bias = None if layer.bias is None else layer.bias.detach().to(grid.scale.dtype).clone()
        put(made, name, DynamicLinear.of(grid, bias) if scheme.dynamic
            else PackedLinear.of(grid, scheme, bias))  # fmt: skip
    return made


def held_in(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Hold everything that is saved in another type, as if it had been loaded so."""
    in_type(model, dtype)
    model.config.dtype = dtype


def in_type(model: nn.Module, dtype: torch.dtype) -> None:
    """Hold everything that is saved in another type; the configuration is left as it is.

    What is not saved (the frequencies of rotary positions) keeps the precision it is made in.
    """
    for part in model.modules():
        passing = part._non_persistent_buffers_set
        for value in part.parameters(recurse=False):
            if value.is_floating_point():
                value.data = value.data.to(dtype)
        for name, held in list(part.named_buffers(recurse=False)):
            if held.is_floating_point() and name not in passing:
                setattr(part, name, held.to(dtype))


def put(model: nn.Module, name: str, layer: nn.Module) -> None:
    """Replace a part of a model."""
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, layer)


def linear_names(kept: Mapping[str, str], model: nn.Module) -> tuple[str, ...]:
    """Of the parts that were kept, those that a loader would take for quantised ones."""
    return tuple(name for name in kept if isinstance(model.get_submodule(name), nn.Linear))


def _nothing(model: PreTrainedModel, scheme: Scheme, kept: Mapping[str, str]) -> str:
    rows = {
        part.in_features
        for name, part in model.named_modules()
        if type(part) is nn.Linear and kept.get(name) not in (None, HEAD)
    }
    turned = [name for name, part in model.named_modules() if isinstance(part, Conv1D)]
    if not rows and turned:
        return (
            f"{type(model).__name__} has no layer that can be quantised: {turned[0]} and "
            f"{len(turned) - 1} more are Conv1D, whose weights lie input by output, and no file of "
            "few bits that from_pretrained reads has them. Use nexus export MODEL --to openvino "
            "--bits 8"
        )
    if not rows:
        first = {why: name for name, why in reversed([*kept.items()])}
        return f"{type(model).__name__} has no layer that can be quantised: " + (
            "; ".join(f"not {name}, since {why}" for why, name in reversed(first.items()))
            or "it keeps its weights in embeddings alone"
        )
    good = [size for size in (256, 128, 64, 32, 16, 8) if all(row % size == 0 for row in rows)]
    lengths = ", ".join(map(str, sorted(rows)))
    return (
        f"group_size {scheme.group} divides no row of {type(model).__name__} (of {lengths}): "
        f"choose {', '.join(map(str, good)) or 'row'}"
    )
