"""Layers whose weights lie in memory in few bits: PackedLinear, and DynamicLinear."""

from __future__ import annotations

from typing import Any, Self

import torch
from jaxtyping import Float, Int8
from torch import Tensor, nn
from torch.nn import functional as F

from nexus.quantization.grid import Grid, reach
from nexus.quantization.packing import pack, unpack
from nexus.quantization.scheme import Scheme

KERNEL_ROWS = 16
"""Up to so many tokens at once PyTorch's kernels on packed weights are faster than a product with
the weights written out."""

KERNEL_GROUPS = (32, 64, 128, 256)
KERNEL_COLUMNS = 32
"""Of which rows must be multiples for the 8-bit kernel, which reads beyond others."""
KERNEL_OUTPUTS = 16
"""Of which the number of rows must be a multiple for the 4-bit kernel."""


_SIGNS = -0x7F7F7F80
"""The highest bit of each of four octets: what tells codes above the least from signed ones."""


class PackedLinear(nn.Module):
    """A linear layer whose weight is stored in few bits; what enters it is left as it is.

    Its state is that of a layer in compressed-tensors' `pack-quantized` format. It computes with
    the values that the codes stand for: on a CPU and in bfloat16, for few tokens at once, with
    PyTorch's kernels on packed weights, and else by writing the weight out for the moment.
    """

    weight_packed: Tensor
    weight_scale: Tensor
    weight_zero_point: Tensor | None
    weight_shape: Tensor
    bias: nn.Parameter | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        scheme: Scheme,
        *,
        bias: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """A layer without values; `of` makes one with them.

        Args:
            in_features: numbers that enter.
            out_features: numbers that leave.
            scheme: how the weight is stored; its group must divide `in_features`.
            bias: whether something is added.
            device: where it lies.
            dtype: of scales and bias.
        """
        super().__init__()
        self.in_features, self.out_features, self.scheme = in_features, out_features, scheme
        groups = in_features // (scheme.group or in_features)
        put: dict[str, Any] = {"device": device}
        words = -(-in_features * scheme.bits // 32)
        packed = torch.zeros(out_features, words, dtype=torch.int32, **put)
        self.register_buffer("weight_packed", packed)
        scale = torch.ones(out_features, groups, dtype=dtype, **put)
        self.register_buffer("weight_scale", scale)
        high = -(-out_features * scheme.bits // 32)
        zero = None if scheme.symmetric else torch.zeros(high, groups, dtype=torch.int32, **put)
        self.register_buffer("weight_zero_point", zero)
        shape = torch.tensor([out_features, in_features], device=device)
        self.register_buffer("weight_shape", shape)
        self.bias = (
            nn.Parameter(torch.zeros(out_features, dtype=dtype, **put), requires_grad=False)
            if bias
            else None
        )
        self._ordered: tuple[Tensor, Tensor] | None = None
        self._signed = False

    @classmethod
    def of(cls, grid: Grid, scheme: Scheme, bias: Tensor | None = None) -> Self:
        """The layer with these weights.

        Args:
            grid: the weight.
            scheme: what it was rounded by.
            bias: what is added to what leaves.
        """
        rows, columns = grid.codes.shape
        made = cls(
            columns, rows, scheme, bias=bias is not None, device="meta", dtype=grid.scale.dtype
        )
        made.weight_packed = pack(grid.codes, scheme.bits)
        made.weight_scale = grid.scale
        if grid.zero is not None:
            made.weight_zero_point = pack(grid.zero.T.contiguous(), scheme.bits).T.contiguous()
        made.weight_shape = torch.tensor([rows, columns], device=grid.codes.device)
        if bias is not None:
            made.bias = nn.Parameter(bias.detach(), requires_grad=False)
        return made

    def grid(self) -> Grid:
        """The weight as codes, scales and zeros."""
        bits, zero = self.scheme.bits, None
        if self.weight_zero_point is not None:
            turned = self.weight_zero_point.T.contiguous()
            zero = unpack(turned, bits, self.out_features).T
        codes = unpack(self._packed(), bits, self.in_features)
        return Grid(codes, self.weight_scale, zero)

    def forward(self, x: Float[Tensor, "*n in"]) -> Float[Tensor, "*n out"]:
        if self._has_kernel(x):
            flat = self._kernel(x.reshape(-1, self.in_features))
            out = flat.view(*x.shape[:-1], self.out_features)
            return out if self.bias is None else out + self.bias
        return F.linear(x, self.grid().values().to(x.dtype), self.bias)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, {self.scheme}"

    def _has_kernel(self, x: Tensor) -> bool:
        """Kernels know one processor, one type and some shapes, and no gradients."""
        few = x.numel() <= KERNEL_ROWS * self.in_features
        plain = x.device.type == "cpu" and x.dtype == self.weight_scale.dtype == torch.bfloat16
        if not (few and plain) or (torch.is_grad_enabled() and x.requires_grad):
            return False
        scheme = self.scheme
        if scheme.bits == 8:
            fits = (
                self.in_features % KERNEL_COLUMNS == 0
            )  # which is no matter of speed: else it crashes
            return fits and scheme.group is None and scheme.symmetric
        return scheme.group in KERNEL_GROUPS and self.out_features % KERNEL_OUTPUTS == 0

    def _kernel(self, x: Float[Tensor, "n in"]) -> Float[Tensor, "n out"]:
        if self.scheme.bits == 8:
            codes = self._signed_codes()
            out: Tensor = torch.ops.aten._weight_int8pack_mm(x, codes, self.weight_scale.flatten())
            return out
        codes, scales = self._in_kernel_order()
        out = torch.ops.aten._weight_int4pack_mm_for_cpu(x, codes, self.scheme.group, scales)
        return out

    def _signed_codes(self) -> Tensor:
        """Codes of eight bits as the kernel wants them, in the place of those as they are saved."""
        if not self._signed:
            self.weight_packed, self._signed = self.weight_packed ^ _SIGNS, True
        return self.weight_packed.view(torch.int8)

    def _in_kernel_order(self) -> tuple[Tensor, Tensor]:
        """Codes of four bits or less as the kernel wants them, kept beside those as saved."""
        if self._ordered is None:
            grid = self.grid()
            above = grid.codes.to(torch.int32) + 8
            codes = torch.ops.aten._convert_weight_to_int4pack_for_cpu(above, 1)
            shift = torch.zeros_like(grid.scale)
            if grid.zero is not None:
                shift = -grid.zero.to(grid.scale.dtype) * grid.scale
            self._ordered = codes, torch.stack((grid.scale.T, shift.T), -1).contiguous()
        return self._ordered

    def _packed(self) -> Tensor:
        """As it is saved."""
        return self.weight_packed ^ _SIGNS if self._signed else self.weight_packed

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}weight_packed"] = self._packed()

    def _load_from_state_dict(self, *args: Any) -> None:
        self._ordered, self._signed = None, False
        super()._load_from_state_dict(*args)

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        self._ordered = None
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self


class DynamicLinear(nn.Module):
    """A linear layer in whole numbers of eight bits: each token that enters is rounded as well.

    Its state is that of a layer in compressed-tensors' `int-quantized` format. There is no
    gradient.
    """

    weight: Tensor
    weight_scale: Tensor
    bias: nn.Parameter | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bias: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """A layer without values; `of` makes one with them."""
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        codes = torch.zeros(out_features, in_features, dtype=torch.int8, device=device)
        self.register_buffer("weight", codes)
        scale = torch.ones(out_features, 1, dtype=dtype, device=device)
        self.register_buffer("weight_scale", scale)
        self.bias = (
            nn.Parameter(torch.zeros(out_features, dtype=dtype, device=device), requires_grad=False)
            if bias
            else None
        )

    @classmethod
    def of(cls, grid: Grid, bias: Tensor | None = None) -> Self:
        """The layer with these weights, of one scale a row."""
        rows, columns = grid.codes.shape
        made = cls(columns, rows, bias=bias is not None, device="meta", dtype=grid.scale.dtype)
        made.weight, made.weight_scale = grid.codes.contiguous(), grid.scale
        if bias is not None:
            made.bias = nn.Parameter(bias.detach(), requires_grad=False)
        return made

    def grid(self) -> Grid:
        """The weight as codes and scales."""
        return Grid(self.weight, self.weight_scale, None)

    def forward(self, x: Float[Tensor, "*n in"]) -> Float[Tensor, "*n out"]:
        flat = x.reshape(-1, self.in_features)
        codes, scale = rounded_tokens(flat)
        whole = _whole_product(codes, self.weight)
        out = (whole.float() * scale * self.weight_scale.float().T).to(x.dtype)
        out = out.view(*x.shape[:-1], self.out_features)
        return out if self.bias is None else out + self.bias

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, int8 both"


def rounded_tokens(x: Float[Tensor, "n in"]) -> tuple[Tensor, Float[Tensor, "n 1"]]:
    """Each token in eight bits, and what a step of it is worth."""
    low, high = reach(8)
    exact = x.float()
    scale = 2 * exact.abs().amax(-1, keepdim=True) / (high - low)
    scale = torch.where(scale == 0, torch.ones_like(scale), scale)
    return (exact / scale).round().clamp(low, high).to(torch.int8), scale


def _whole_product(codes: Tensor, weight: Tensor) -> Tensor:
    """In 32 bits."""
    if codes.device.type == "cuda":
        return torch._int_mm(*filled_up(codes, weight.T))[: len(codes), : len(weight)]
    return torch._int_mm(codes, weight.T)


def filled_up(
    one: Int8[Tensor, "n k"], other: Int8[Tensor, "k m"]
) -> tuple[Int8[Tensor, "_ _"], Int8[Tensor, "_ _"]]:
    """With zeros, as CUDA's kernel wants it: 17 rows at least, all else in multiples of 8."""
    inner, outer = -one.shape[1] % 8, -other.shape[1] % 8
    one = F.pad(one, (0, inner, 0, max(0, 17 - len(one))))
    return one, F.pad(other.T, (0, inner, 0, outer)).T if inner or outer else other
