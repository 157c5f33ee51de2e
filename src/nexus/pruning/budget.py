"""Budget: what a model costs at any sizes, from a handful of products that are found once."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from itertools import product
from math import prod
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from nexus.pruning.families import Family, layers_of
from nexus.pruning.sizes import Sizes, without_number

Measure = Literal["parameters", "without_embeddings", "bytes", "flops"]
"""What can be counted: parameters, the same without embedding and head, the bytes of the weights,
or the floating-point operations of a token's forward pass."""

UNITS: dict[Measure, str] = {
    "parameters": "parameters",
    "without_embeddings": "parameters without embeddings",
    "bytes": "bytes",
    "flops": "FLOPs per token",
}


class Cost(Protocol):
    """What a model takes of a budget, by its sizes."""

    @property
    def unit(self) -> str:
        """What is counted, as it reads behind a number."""

    def __call__(self, sizes: Sizes) -> float:
        """At some sizes."""

    def over(self, values: Mapping[str, Any]) -> Any:
        """At many sizes at once: arrays by the names of `Sizes`."""


_Terms = Counter[tuple[str, ...]]
"""How often each product of sizes occurs: ("hidden", "neurons") three times in a gated network."""


class Budget:
    """The cost of a model at other sizes. Tied tensors count once.

    `flops` is two for every weight that a token is multiplied with: the head counts,
    tied or not, tables that are only looked up do not, and of experts only those that are asked.
    What attention computes between tokens depends on the text's length and is left out.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        family: Family,
        measure: Measure,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Find the products.

        Args:
            model: in memory or without weights.
            family: its row.
            measure: what is counted.
            dtype: of the weights whose bytes are counted; the model's own if not given.
        """
        self.measure, self.dtype = measure, dtype
        self._head_dim = Sizes.of(model.config, family).head_dim
        self._family = family
        prefix, layers = layers_of(model, family)
        self._outside: _Terms = Counter()
        self._inside: list[_Terms] = [Counter() for _ in layers]
        text = model.config.get_text_config()
        self._asked = getattr(text, "num_experts_per_tok", None)
        for name, parameter, factor in _counted(model, measure, dtype):
            axes = family.axes(without_number(name, prefix))
            in_layer = name.startswith(f"{prefix}.")
            number = int(name.removeprefix(f"{prefix}.").partition(".")[0]) if in_layer else 0
            place = self._inside[number] if in_layer else self._outside
            for term, count in self._terms(axes, parameter).items():
                place[term] += count * factor
        self._together = _sum(self._inside)

    @property
    def unit(self) -> str:
        if self.dtype is None or self.measure != "bytes":
            return UNITS[self.measure]
        return f"bytes in {str(self.dtype).removeprefix('torch.')}"

    def __call__(self, sizes: Sizes, layers: Iterable[int] | None = None) -> int:
        """At some sizes; `layers` says which are kept, which matters where they are of two kinds.

        Without it layers cost what they do on average.
        """
        if layers is not None:
            return self.of(layers)(sizes)
        return round(float(self.over(asdict(sizes))))

    def of(self, layers: Iterable[int]) -> Budget:
        """What counts models of just these layers, of which sizes then have as many."""
        chosen = copy.copy(self)
        chosen._inside = [self._inside[layer] for layer in layers]
        chosen._together = _sum(chosen._inside)
        return chosen

    @property
    def is_even(self) -> bool:
        """Whether all layers cost the same at any sizes."""
        return all(terms == self._inside[0] for terms in self._inside)

    def over(self, values: Mapping[str, Any]) -> Any:
        """At many sizes at once: arrays by the names of `Sizes`, layers of average cost."""
        inside = _value(self._together, values) / len(self._inside)
        return _value(self._outside, values) + inside * values["layers"]

    def _terms(self, axes: tuple[str, ...], tensor: Tensor) -> _Terms:
        terms: _Terms = Counter()
        factors = [
            [self._factor(atom, length) for atom in axis.split("+")]
            for axis, length in zip(axes, tensor.shape, strict=True)
        ]
        for one in product(*factors):
            count = prod(number for number, _ in one)
            names = tuple(sorted(name for _, name in one if name))
            if self.measure == "flops" and self._asked and len(axes) == 3:
                names = tuple(name for name in names if name != "experts")
                count *= self._asked
            terms[names] += count
        return terms

    def _factor(self, atom: str, length: int) -> tuple[int, str]:
        match atom:
            case "-":
                return length, ""
            case "heads" | "groups":
                return self._head_dim, atom
            case "triples":
                return 3 * self._head_dim, "heads"
            case _:
                return 1, atom


def _counted(
    model: PreTrainedModel, measure: Measure, dtype: torch.dtype | None
) -> list[tuple[str, Tensor, int]]:
    """The tensors that cost something, with how much an entry costs."""
    output: nn.Module | None = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    head = None if output is None else output.weight
    tables = {id(model.get_input_embeddings().weight), id(head)}
    looked_up = {id(part.weight) for part in model.modules() if isinstance(part, nn.Embedding)} - {
        id(head)
    }
    found: list[tuple[str, Tensor, int]] = []
    for name, parameter in model.named_parameters():
        match measure:
            case "parameters":
                cost = 1
            case "without_embeddings":
                cost = int(id(parameter) not in tables)
            case "bytes":
                held = parameter.dtype
                cost = (dtype if dtype and held.is_floating_point else held).itemsize
            case "flops":
                cost = 2 * int(parameter.dim() > 1 and id(parameter) not in looked_up)
        found.append((name, parameter, cost))
    return found


def _sum(parts: Iterable[_Terms]) -> _Terms:
    total: _Terms = Counter()
    for terms in parts:
        total.update(terms)
    return total


def _value(terms: _Terms, values: Mapping[str, Any]) -> Any:
    total: Any = np.float64(0)
    for names, count in terms.items():
        total = total + count * prod((values[name] for name in names), start=np.float64(1))
    return total
