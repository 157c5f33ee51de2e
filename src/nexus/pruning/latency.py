"""Latency: how long a model takes to write a token at any sizes, on this machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict
from itertools import combinations
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from nexus.errors import UsageError
from nexus.kernels.decoder import evaluated
from nexus.pruning.budget import Budget
from nexus.pruning.families import Family
from nexus.pruning.search import AXES, Axis, Grid
from nexus.pruning.sizes import Sizes
from nexus.pruning.slice import blank

PROMPT = 16
TOKENS = 8
"""Written in a round, after a prompt that is not timed."""
ROUNDS = 5

TOLERANCE = 0.05
"""How far the measured time may be from its target, as a share of it: a machine's own noise."""
TRIES = 4

Stopwatch = Callable[[PreTrainedModel], float]
"""Seconds a token."""


class Latency:
    """Milliseconds that a token takes to be written, one text at a time, with a KV cache.

    Both are timed in one type, whatever the smaller one is trained in.
    A few shapes are measured with random weights, each in turns with the model itself so that
    what else the machine does hits both alike. Between them the time of a token is

        constant + layers · a + (weights of the layers) · b + (weights of the head) · c,

    none of them negative, fitted to the relative error: reading weights and starting kernels are
    all there is to it. What is measured later corrects the fit there.
    """

    unit = "milliseconds per token"

    def __init__(
        self,
        model: PreTrainedModel,
        family: Family,
        *,
        multiple: int = 32,
        axes: Collection[Axis] = AXES,
        dtype: torch.dtype | None = None,
        stopwatch: Stopwatch | None = None,
    ) -> None:
        """Measure the model and up to five smaller shapes: some sixty tokens of both for each.

        Args:
            model: in memory, where it will run.
            family: its row.
            multiple: of which neurons and hidden channels are multiples.
            axes: which sizes may change.
            dtype: what both are timed in; the model's own if not given.
            stopwatch: what tells the time; the machine's clock unless a test has its own.

        Raises:
            UsageError: The model writes no text.
        """
        if not model.can_generate():
            raise UsageError(
                f"A latency budget is the time to write a token, but {type(model).__name__} writes "
                "no text. Choose the budget parameters, bytes or flops"
            )
        self._model, self._family = model, family
        self._dtype = dtype or model.dtype
        self._stopwatch = stopwatch or seconds_a_token
        self._flops = Budget(model, family, "flops")
        self._correction = 1.0
        self._grid = Grid(model, family, multiple, axes)
        self._own: list[float] = []
        self.shares: dict[Sizes, float] = {self._grid.before: 1.0}
        """What was measured, as shares of the model's own time."""
        probes = self._probes()
        if not probes:
            raise UsageError(
                f"No smaller {type(model).__name__} could be timed: no axis among "
                f"{', '.join(sorted(axes))} can be cut by half in multiples of {multiple}. Name "
                "more axes, or a smaller multiple"
            )
        for sizes in probes:
            self.measure(sizes)
        self._correction = 1.0

    @property
    def own(self) -> float:
        """The model's own milliseconds per token: the median over all rounds."""
        return 1e3 * statistics.median(self._own)

    def __call__(self, sizes: Sizes) -> float:
        return float(self.over(asdict(sizes)))

    def over(self, values: Mapping[str, Any]) -> Any:
        fitted = sum(
            weight * feature
            for weight, feature in zip(self._weights, self._features(values), strict=True)
        )
        return fitted * self._correction * self.own

    @property
    def is_even(self) -> bool:
        """Whether all layers are of one kind."""
        return self._flops.is_even

    def measure(self, sizes: Sizes, layers: tuple[int, ...] | None = None) -> float:
        """Milliseconds per token at a shape, really measured; the fit goes through it then.

        Of the first layers unless these are named.
        """
        whole, small = self._whole(), self._of(sizes, layers)
        pair = (whole, small)
        own: list[float] = []
        shares: list[float] = []
        for number in range(ROUNDS + 1):
            order = pair if number % 2 else pair[::-1]
            taken = {id(one): self._stopwatch(one) for one in order}
            if number:  # the first warms up
                own.append(taken[id(whole)])
                shares.append(taken[id(small)] / own[-1])
        self._own += own
        self.shares[sizes] = statistics.median(shares)
        self._weights = self._fit()
        self._correction = 1.0
        self._correction = self.shares[sizes] * self.own / self(sizes)
        return self.shares[sizes] * self.own

    def _whole(self) -> PreTrainedModel:
        return self._model if self._dtype == self._model.dtype else self._of(self._grid.before)

    def _of(self, sizes: Sizes, layers: tuple[int, ...] | None = None) -> PreTrainedModel:
        return _random(blank(self._model, self._family, sizes, self._dtype, layers))

    def _probes(self) -> list[Sizes]:
        """Shapes that differ in what may change: each axis about half by itself, then together."""
        free = [axis for axis in self._grid.free if asdict(self._grid.before)[axis]]
        sets = [{axis} for axis in sorted(free)]
        sets += [set(free)] if len(free) > 1 else []
        found = {
            self._grid.best(self._distance(dict.fromkeys(halved, 0.5)), 1)[0]: None
            for halved in sets
        }
        return [sizes for sizes in found if sizes != self._grid.before]

    def _distance(self, shares: Mapping[str, float]) -> Callable[[Mapping[str, Any]], Any]:
        before = asdict(self._grid.before)
        axes = [axis for axis in self._grid.free if before[axis]]

        def distance(values: Mapping[str, Any]) -> Any:
            return sum(
                abs(np.log(values[axis] / (before[axis] * shares.get(axis, 1.0)))) for axis in axes
            ) + np.zeros(np.shape(values["hidden"]))

        return distance

    def _features(self, values: Mapping[str, Any]) -> list[Any]:
        whole = self._flops(self._grid.before)
        head = self._flops.over({**values, "layers": 0 * values["layers"]})
        inside = self._flops.over(values) - head
        one = np.ones(np.shape(values["hidden"]))
        return [one, values["layers"] / self._grid.before.layers, inside / whole, head / whole]

    def _fit(self) -> list[float]:
        """Non-negative least squares of the relative error: the best of all sets of terms."""
        rows = np.array(
            [[float(f) for f in self._features(asdict(sizes))] for sizes in self.shares]
        )
        rows = rows / np.array(list(self.shares.values()))[:, None]
        best, least = np.zeros(rows.shape[1]), np.inf
        for count in range(1, rows.shape[1] + 1):
            for some in combinations(range(rows.shape[1]), count):
                part = rows[:, some]
                found = np.linalg.lstsq(part, np.ones(len(rows)), rcond=None)[0]
                error = float(((part @ found - 1) ** 2).sum())
                if (found >= 0).all() and error < least * (1 - 1e-9):
                    best, least = np.zeros(rows.shape[1]), error
                    best[list(some)] = found
        return [float(weight) for weight in best]


@torch.no_grad()
def seconds_a_token(model: PreTrainedModel) -> float:
    """Of a text of its own, after a short prompt that is not timed."""
    written: Any = model
    ids = (
        torch.arange(PROMPT, device=model.device)[None] % model.config.get_text_config().vocab_size
    )
    with evaluated(model):
        cache = written(input_ids=ids, use_cache=True).past_key_values
        _settle(model.device)
        begin = time.perf_counter()
        for _ in range(TOKENS):
            written(input_ids=ids[:, :1], past_key_values=cache, use_cache=True)
        _settle(model.device)
    return (time.perf_counter() - begin) / TOKENS


def _settle(device: torch.device) -> None:
    """Wait for what an accelerator still has to do."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def _random(model: PreTrainedModel) -> PreTrainedModel:
    """With weights of a usual size: what lies in fresh memory may be slow to compute with."""
    generator = torch.Generator(model.device).manual_seed(0)
    for parameter in model.parameters():
        parameter.requires_grad_(False).normal_(std=0.02, generator=generator)
    return model


def latency_shape(
    latency: Latency, target: float, shape: Callable[[float], Sizes]
) -> tuple[Sizes, float]:
    """The shape that takes `target` milliseconds a token, and what it really takes.

    The best guess is measured, which corrects the fit, and another is made until one is within
    `TOLERANCE`, or `TRIES` of them are made; then it is the closest of these.

    Args:
        latency: the machine's, fitted.
        target: in milliseconds.
        shape: the best guess for so many.

    Raises:
        UsageError: No shape is as fast, or the model itself is faster.
    """
    taken: dict[Sizes, float] = {}
    for _ in range(TRIES):
        sizes = shape(target)
        if sizes in taken:
            break
        taken[sizes] = latency.measure(sizes)
        if abs(taken[sizes] / target - 1) <= TOLERANCE:
            break
    closest = min(taken, key=lambda sizes: abs(taken[sizes] / target - 1))
    return closest, taken[closest]
