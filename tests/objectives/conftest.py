"""The table of divergences once more: from the papers, in float64 NumPy, with their limits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

Array = NDArray[np.float64]
Ids = NDArray[np.int64]


class Row(NamedTuple):
    """A divergence with its parameters, and what it must be."""

    divergence: str
    parameters: dict[str, Any]
    value: Callable[[Array, Array, Ids, Array], Array]
    """(p, q, targets, the q that weights without gradient are taken from) to a value per token."""
    limit: Callable[[Array, Ids], Array]
    """(student - teacher logits, targets) to T^power · D at T = ∞."""
    power: int = 2

    @property
    def kind(self) -> dict[str, Any]:
        return {"divergence": self.divergence, **self.parameters}


def kl(p: Array, q: Array) -> Array:
    return (p * (np.log(p) - np.log(q))).sum(-1)


def jsd(p: Array, q: Array, beta: float) -> Array:
    m = beta * p + (1 - beta) * q
    return beta * kl(p, m) + (1 - beta) * kl(q, m)


def adaptive(p: Array, q: Array, still: Array, head_mass: float) -> Array:
    values = []
    for i in range(len(p)):
        mass, head = 0.0, 0.0
        for rank, at in enumerate(np.argsort(-p[i])):
            mass += p[i, at]
            if rank == 0 or mass <= head_mass:
                head += abs(p[i, at] - still[i, at])
        share = head / np.abs(p[i] - still[i]).sum() if (p[i] != still[i]).any() else 0.5
        values.append(share * kl(p[i], q[i]) + (1 - share) * kl(q[i], p[i]))
    return np.array(values)


def alpha_beta(p: Array, q: Array, a: float, b: float) -> Array:
    if a == 0 and b == 0:
        return (0.5 * (np.log(p) - np.log(q)) ** 2).sum(-1)
    if b == 0:
        return (p**a * np.log(p**a / q**a) - p**a + q**a).sum(-1) / a**2
    if a == 0:
        return (q**b * np.log(q**b / p**b) - q**b + p**b).sum(-1) / b**2
    if a + b == 0:
        return (np.log(q**a / p**a) + (q**a / p**a) ** -1 - 1).sum(-1) / a**2
    c = a + b
    return -(p**a * q**b - a / c * p**c - b / c * q**c).sum(-1) / (a * b)


def centred_mse(p: Array, q: Array) -> Array:
    gap = np.log(q) - np.log(p)
    return ((gap - gap.mean(-1, keepdims=True)) ** 2).mean(-1)


def decoupled(p: Array, q: Array, targets: Ids, target_weight: float, rest_weight: float) -> Array:
    values = []
    for one_p, one_q, at in zip(p, q, targets, strict=True):
        against = kl(np.array([one_p[at], 1 - one_p[at]]), np.array([one_q[at], 1 - one_q[at]]))
        within = kl(np.delete(one_p, at) / (1 - one_p[at]), np.delete(one_q, at) / (1 - one_q[at]))
        values.append(target_weight * against + rest_weight * within)
    return np.array(values)


def half_mse(times: float) -> Callable[[Array, Ids], Array]:
    return lambda gap, targets: times * 0.5 * gap.var(-1)


def of_alpha_beta(a: float, b: float) -> Row:
    def limit(gap: Array, targets: Ids) -> Array:
        return 0.5 * gap.shape[-1] ** (1 - a - b) * gap.var(-1)

    parameters = {"a": a, "b": b}
    return Row("alpha_beta", parameters, lambda p, q, t, s: alpha_beta(p, q, a, b), limit)


def of_dkd(target_weight: float, rest_weight: float) -> Row:
    def limit(gap: Array, targets: Ids) -> Array:
        v = gap.shape[-1]
        own = gap[np.arange(len(gap)), targets]
        rest = np.stack([np.delete(row, at) for row, at in zip(gap, targets, strict=True)])
        against = (1 / v) * (1 - 1 / v) * (own - rest.mean(-1)) ** 2
        return 0.5 * (target_weight * against + rest_weight * rest.var(-1))

    parameters = {"target_weight": target_weight, "rest_weight": rest_weight}
    value = lambda p, q, t, s: decoupled(p, q, t, target_weight, rest_weight)  # noqa: E731
    return Row("dkd", parameters, value, limit)


ROWS = [
    Row("forward_kl", {}, lambda p, q, t, s: kl(p, q), half_mse(1)),
    Row("reverse_kl", {}, lambda p, q, t, s: kl(q, p), half_mse(1)),
    Row("symmetric_kl", {}, lambda p, q, t, s: 0.5 * (kl(p, q) + kl(q, p)), half_mse(1)),
    Row(
        "symmetric_kl",
        {"reverse_share": 0.9},
        lambda p, q, t, s: 0.1 * kl(p, q) + 0.9 * kl(q, p),
        half_mse(1),
    ),
    Row("jsd", {}, lambda p, q, t, s: jsd(p, q, 0.5), half_mse(0.25)),
    Row("jsd", {"beta": 0.9}, lambda p, q, t, s: jsd(p, q, 0.9), half_mse(0.09)),
    Row(
        "jsd",
        {"beta": 0.01, "normalize": True},
        lambda p, q, t, s: jsd(p, q, 0.01) / (0.01 * 0.99),
        half_mse(1),
    ),
    Row("jsd", {"beta": 0.0}, lambda p, q, t, s: kl(p, q), half_mse(1)),
    Row("jsd", {"beta": 1.0, "normalize": True}, lambda p, q, t, s: kl(q, p), half_mse(1)),
    Row("skew_kl", {}, lambda p, q, t, s: kl(p, 0.1 * p + 0.9 * q), half_mse(0.81)),
    Row("skew_kl", {"skew": 0.0}, lambda p, q, t, s: kl(p, q), half_mse(1)),
    Row("skew_reverse_kl", {}, lambda p, q, t, s: kl(q, 0.1 * q + 0.9 * p), half_mse(0.81)),
    Row(
        "skew_reverse_kl",
        {"skew": 0.7},
        lambda p, q, t, s: kl(q, 0.7 * q + 0.3 * p),
        half_mse(0.09),
    ),
    Row("adaptive_kl", {}, lambda p, q, t, s: adaptive(p, q, s, 0.5), half_mse(1)),
    Row("adaptive_kl", {"head_mass": 0.8}, lambda p, q, t, s: adaptive(p, q, s, 0.8), half_mse(1)),
    of_alpha_beta(0.5, 0.5),
    of_alpha_beta(0.2, 0.7),
    of_alpha_beta(0.5, 0.0),
    of_alpha_beta(0.0, 0.5),
    of_alpha_beta(0.5, -0.5),
    of_alpha_beta(0.0, 0.0),
    Row(
        "total_variation",
        {},
        lambda p, q, t, s: 0.5 * np.abs(p - q).sum(-1),
        lambda gap, t: 0.5 * np.abs(gap - gap.mean(-1, keepdims=True)).mean(-1),
        power=1,
    ),
    Row("logit_mse", {}, lambda p, q, t, s: centred_mse(p, q), lambda gap, t: gap.var(-1)),
    of_dkd(1.0, 8.0),
    of_dkd(0.5, 2.0),
]


def name(row: Row) -> str:
    return "-".join([row.divergence, *(f"{key}={v}" for key, v in row.parameters.items())])


@pytest.fixture(params=ROWS, ids=name, scope="session")
def row(request: pytest.FixtureRequest) -> Row:
    """Every divergence at its defaults and at other parameters."""
    return request.param


@pytest.fixture(scope="session")
def rows() -> list[Row]:
    return ROWS
