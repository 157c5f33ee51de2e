"""LearnedLinear: a layer in few bits whose grid is trained, made of one that was rounded."""

from __future__ import annotations

from typing import Literal, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from nexus.quantization.grid import Grid, reach
from nexus.quantization.linear import PackedLinear
from nexus.quantization.quantize import held_in, put

Learned = Literal["scales", "weights"]
"""What is trained of a layer in few bits: what its steps are worth, or its weights as well."""


class LearnedLinear(nn.Module):
    """A linear layer that computes with the values that it will be saved with, and learns.

    Its weight is `(codes - zero) · scale` with `scale = start · exp(growth)`: an optimiser's step
    is a share of the scale, however large that is. Where only scales are trained, codes stay as
    they are. Else `codes = clamp(round(weight / scale) + zero)`, and rounding passes gradients on
    as they come (the straight-through estimator), from which the scale's is that of LSQ
    (arXiv:1902.08153). Scales are rounded to the type that they are saved in, likewise.
    """

    start: Tensor
    zero: Tensor | None
    codes: Tensor | None
    weight: nn.Parameter | None

    def __init__(
        self,
        layer: PackedLinear,
        weight: Float[Tensor, "out in"] | None = None,
        saved: torch.dtype = torch.bfloat16,
    ) -> None:
        """A layer that computes what `layer` does, until it is trained.

        Args:
            layer: what rounding has made, its scales in a type of 32 bits.
            weight: what it was rounded from, to be trained; without it scales alone are.
            saved: the type that scales are saved in.
        """
        super().__init__()
        grid = layer.grid()
        self.scheme, self.saved = layer.scheme, saved
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.growth = nn.Parameter(torch.zeros_like(grid.scale, dtype=torch.float32))
        self.weight = None if weight is None else nn.Parameter(weight.detach().float().clone())
        self.register_buffer("start", grid.scale.float())
        self.register_buffer("zero", grid.zero)
        self.register_buffer("codes", grid.codes if weight is None else None)
        self.bias = layer.bias

    def forward(self, x: Float[Tensor, "*n in"]) -> Float[Tensor, "*n out"]:
        # What leads to the values is computed again for the gradient: it takes several times the
        # room of the weight, and little time.
        values = checkpoint(self.values, use_reentrant=False, preserve_rng_state=False)
        return F.linear(x, cast(Tensor, values).to(x.dtype), self.bias)

    def values(self) -> Float[Tensor, "out in"]:
        """The weight that it computes with; gradients go through."""
        scale = self.scale()[..., None]
        steps = self._codes(scale)
        if self.zero is not None:
            steps = steps - self.zero[..., None].float()
        return (steps * scale).view(self.out_features, self.in_features)

    def scale(self) -> Float[Tensor, "out groups"]:
        """What a step of each group is worth, as it will be saved."""
        exact = self.start * self.growth.exp()
        return _passing(exact, exact.to(self.saved).float())

    @torch.no_grad()
    def rounded(self) -> PackedLinear:
        """The layer in few bits that computes the same."""
        scale = self.scale()
        codes = self._codes(scale[..., None]).to(torch.int8).flatten(1)
        bias = None if self.bias is None else self.bias.to(self.saved)
        return PackedLinear.of(Grid(codes, scale.to(self.saved), self.zero), self.scheme, bias)

    def extra_repr(self) -> str:
        learned = "scales" if self.weight is None else "weights"
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, {self.scheme}, "
            f"learns {learned}"
        )

    def _codes(self, scale: Float[Tensor, "out groups 1"]) -> Float[Tensor, "out groups size"]:
        shape = (*scale.shape[:2], -1)
        if self.weight is None:
            return cast(Tensor, self.codes).view(shape).float()
        exact = self.weight.view(shape) / scale
        codes = _passing(exact, exact.round())
        if self.zero is not None:
            codes = codes + self.zero[..., None].float()
        return codes.clamp(*reach(self.scheme.bits))


def learned_layers(
    few: PreTrainedModel, what: Learned, whole: nn.Module, saved: torch.dtype = torch.bfloat16
) -> PreTrainedModel:
    """Let the layers in few bits of a model learn, and nothing else of it.

    Args:
        few: a model in few bits, held in 32; it is changed.
        what: of each layer.
        whole: the model that it was rounded from.
        saved: the type that it will be saved in.
    """
    few.requires_grad_(False)
    for name, layer in list(few.named_modules()):
        if isinstance(layer, PackedLinear):
            weight = cast(Tensor, whole.get_submodule(name).weight) if what == "weights" else None
            put(few, name, LearnedLinear(layer, weight, saved))
    return few


def rounded_layers(few: PreTrainedModel, saved: torch.dtype = torch.bfloat16) -> tuple[str, ...]:
    """Put layers in few bits back in the place of those that learnt; returns their names.

    Args:
        few: what `learned_layers` made; it is changed, and held in the type that it is saved in.
        saved: that type.
    """
    learnt = {name: part for name, part in few.named_modules() if isinstance(part, LearnedLinear)}
    for name, layer in learnt.items():
        put(few, name, layer.rounded())
    held_in(few, saved)
    return tuple(learnt)


def _passing(exact: Tensor, rounded: Tensor) -> Tensor:
    """The rounded values, to the bit, with the gradient of the exact ones."""
    return rounded.detach() + (exact - exact.detach())
