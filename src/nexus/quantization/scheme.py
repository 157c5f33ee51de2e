"""Scheme: into how many bits, in which groups."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from nexus.errors import UsageError
from nexus.spec import Spec

SchemeName = Literal["int8", "int4", "int3", "int8_dynamic"]

SCHEMES: dict[int, SchemeName] = {8: "int8", 4: "int4", 3: "int3"}
"""By bits, those of weights only."""

GROUP = 64
"""Neighbours along a row that share a scale, where bits are few."""

_WHOLE_ROWS = (
    "int8_dynamic has one scale a row, around zero: drop group_size and symmetric, or take int8"
)


class Scheme(Spec):
    """Into how many bits a model's weights go, and which of them share a scale.

    `int8`, `int4` and `int3` round weights only; `int8_dynamic` rounds what enters a layer as
    well, token by token, and multiplies whole numbers.
    """

    scheme: SchemeName
    group_size: Annotated[int, Field(ge=1)] | Literal["row"] | None = None
    """How many neighbours along a row share a scale, or `row`: all of them. If not given, 64 below
    eight bits and the row at eight."""
    symmetric: bool = True
    """Whether a group's values lie around zero. False: around its own middle, which costs bits for
    saying where."""

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        if self.scheme == "int8_dynamic" and (self.group is not None or not self.symmetric):
            raise ValueError(_WHOLE_ROWS)
        return self

    @property
    def bits(self) -> int:
        return next((bits for bits, name in SCHEMES.items() if name == self.scheme), 8)

    @property
    def group(self) -> int | None:
        """Neighbours that share a scale; none if a whole row does."""
        if self.group_size is None:
            return None if self.bits == 8 else GROUP
        return None if self.group_size == "row" else self.group_size

    @property
    def dynamic(self) -> bool:
        return self.scheme == "int8_dynamic"

    def bits_per_weight(self, scale_bits: int = 16) -> float:
        """Stored for each weight of a large layer, scales included where groups have them."""
        if self.group is None:
            return float(self.bits)
        return self.bits + (scale_bits if self.symmetric else scale_bits + self.bits) / self.group

    def __str__(self) -> str:
        share = "a row" if self.group is None else f"groups of {self.group}"
        return f"{self.scheme} ({share}{'' if self.symmetric else ', asymmetric'})"


def scheme_of(
    bits: int | None = None,
    scheme: str | None = None,
    group_size: int | str | None = None,
    symmetric: bool = True,
) -> Scheme:
    """The scheme that bits or a name stand for.

    Args:
        bits: 8, 4 or 3.
        scheme: or its name.
        group_size: a number, `row`, or nothing for the scheme's own.
        symmetric: whether grids lie around zero.

    Raises:
        UsageError: They stand for none, or for two.
    """
    if (bits is None) == (scheme is None):
        raise UsageError("give either bits (8, 4 or 3) or a scheme, and not both")
    if bits is not None and bits not in SCHEMES:
        raise UsageError(f"bits is {bits!r}: choose {', '.join(map(str, SCHEMES))}")
    named = scheme if bits is None else SCHEMES[bits]
    if named == "int8_dynamic" and (group_size not in (None, "row") or not symmetric):
        raise UsageError(_WHOLE_ROWS)
    if isinstance(group_size, str) and group_size.isdigit():
        group_size = int(group_size)
    if isinstance(group_size, str) and group_size != "row":
        raise UsageError(f"group_size is '{group_size}': give a number, or row")
    return Scheme.parse({"scheme": named, "group_size": group_size, "symmetric": symmetric})
