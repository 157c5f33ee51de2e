"""Do intervals hold the truth as often as they say? Simulated data, the project's own code.

    python benchmarks/coverage.py [--sets 1000] [--output benchmarks/results/coverage]

Every interval is nominally a 95 % one, and should cover in 93 to 97 % of the data sets.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from numpy import ndarray
from results import RESULTS, publish, table
from worlds import Confidences, Documents, Items, World, draws, per_token

from nexus.evaluation.bootstrap import RESAMPLES, Bootstrap
from nexus.evaluation.calibration import calibration
from nexus.evaluation.retention import difference, gap_closed, mean, perplexity_ratio
from nexus.evaluation.scoreboard import compare, score
from nexus.evaluation.task_retention import task_retention
from nexus.results import Estimate, Refused

CHANCE = 0.25
LEAST, MOST = 0.93, 0.97

Drawn = dict[str, ndarray]
Found = dict[str, Estimate | Refused]


@dataclass(frozen=True)
class Row:
    """How one estimator did in one world."""

    estimator: str
    world: str
    sets: int
    refused: int
    """No interval was claimed."""
    below: int
    """Intervals that lay wholly below the truth."""
    above: int
    width: float
    """Median."""

    @property
    def coverage(self) -> float:
        claimed = self.sets - self.refused
        return (claimed - self.below - self.above) / max(1, claimed)


def of_documents(drawn: Drawn, resamples: int) -> Found:
    """Every estimator of held-out text."""
    names = ("teacher", "trained", "untrained", "divergence", "divergence untrained", "agreement")
    by = {name: per_token(drawn, name) for name in names}
    nothing = per_token(drawn | {"nothing": np.zeros_like(drawn["tokens"])}, "nothing")
    losses = np.stack([drawn["trained"], drawn["tokens"], drawn["bytes"]], axis=1)
    sums = Bootstrap.of(losses, resamples)
    return {
        "loss a token": mean(by["trained"], resamples=resamples),
        "perplexity": sums.estimate(lambda of: of[:, 0] / of[:, 1], through=math.exp),
        "bits per byte": sums.estimate(lambda of: of[:, 0] / of[:, 2] / math.log(2)),
        "KL a token": mean(by["divergence"], resamples=resamples),
        "agreement": mean(by["agreement"], resamples=resamples),
        "difference of losses": difference(by["trained"], by["teacher"], resamples=resamples),
        "change of the loss": difference(by["trained"], by["untrained"], resamples=resamples),
        "perplexity ratio": perplexity_ratio(by["trained"], by["teacher"], resamples=resamples),
        "gap closed, loss": gap_closed(
            by["untrained"], by["trained"], by["teacher"], resamples=resamples
        ),
        "gap closed, KL": gap_closed(
            by["divergence untrained"], by["divergence"], nothing, resamples=resamples
        ),
    }


def true_of_documents(mean_of: dict[str, float]) -> dict[str, float]:
    tokens = mean_of["tokens"]
    teacher, trained, untrained = (
        mean_of[name] / tokens for name in ("teacher", "trained", "untrained")
    )
    return {
        "loss a token": trained,
        "perplexity": math.exp(trained),
        "bits per byte": mean_of["trained"] / mean_of["bytes"] / math.log(2),
        "KL a token": mean_of["divergence"] / tokens,
        "agreement": mean_of["agreement"] / tokens,
        "difference of losses": trained - teacher,
        "change of the loss": trained - untrained,
        "perplexity ratio": math.exp(trained - teacher),
        "gap closed, loss": (untrained - trained) / (untrained - teacher),
        "gap closed, KL": 1 - mean_of["divergence"] / mean_of["divergence untrained"],
    }


def of_items(drawn: Drawn, clusters: tuple[str, ...] | None) -> Found:
    """Every estimator of a task."""
    found: Found = {"accuracy": score(drawn["trained"], clusters)}
    for other in ("teacher", "untrained"):
        apart = compare(drawn["trained"], drawn[other], clusters)
        found[f"difference to the {other}"] = apart.difference
    return found | {
        f"retention, {name.replace('_', ' ')}": kept
        for name, kept in task_retention(drawn, clusters, CHANCE).items()
    }


def true_of_items(world: Items) -> dict[str, float]:
    teacher, trained, untrained = world.teacher, world.trained, world.untrained
    return {
        "accuracy": trained,
        "difference to the teacher": trained - teacher,
        "difference to the untrained": trained - untrained,
        "retention, raw": trained / teacher,
        "retention, above chance": (trained - CHANCE) / (teacher - CHANCE),
        "retention, gap closed": (trained - untrained) / (teacher - untrained),
    }


def simulate(world: World, sets: int, resamples: int = RESAMPLES, seed: int = 1) -> list[Row]:
    """Draw so many data sets from one world and see which intervals hold the truth."""
    estimate: Callable[[Drawn], Found]
    match world:
        case Documents():
            truth = true_of_documents(world.expected())
            estimate = lambda drawn: of_documents(drawn, resamples)  # noqa: E731
        case Items():
            truth, clusters = true_of_items(world), world.clusters
            estimate = lambda drawn: of_items(drawn, clusters)  # noqa: E731
        case Confidences():
            truth = {"calibration error": world.error()}
            estimate = lambda drawn: {"calibration error": calibration(drawn["sums"]).ece}  # noqa: E731
    found = [estimate(drawn) for drawn in draws(world, sets, seed)]
    return [
        row(name, str(world), value, [each[name] for each in found])
        for name, value in truth.items()
    ]


def row(name: str, world: str, truth: float, found: list[Estimate | Refused]) -> Row:
    ends = [
        (each.low, each.high)
        for each in found
        if isinstance(each, Estimate) and each.low is not None and each.high is not None
    ]
    return Row(
        estimator=name,
        world=world,
        sets=len(found),
        refused=len(found) - len(ends),
        below=sum(high < truth for _, high in ends),
        above=sum(low > truth for low, _ in ends),
        width=statistics.median(high - low for low, high in ends),
    )


def false_alarms(world: Items, sets: int, seed: int = 2) -> float:
    """How often two equally good models are called different at p < 0.05."""
    drawn = draws(world, sets, seed)
    p_values = [compare(one["trained"], one["teacher"], world.clusters).p_value for one in drawn]
    return float(np.mean(np.array(p_values) < 0.05))


WORLDS: tuple[World, ...] = (
    Documents(28),
    Documents(60),
    Documents(60, unequal=1.1),
    Documents(200),
    Items(100, teacher=0.7, trained=0.55, untrained=0.3),
    Items(200, teacher=0.6, trained=0.5, untrained=0.3),
    Items(500, teacher=0.8, trained=0.75, untrained=0.4),
    Items(300, teacher=0.75, trained=0.6, untrained=0.4, together=6),
    Confidences(30, over=0.06, off=0.08, unequal=0.0),
    Confidences(28, over=0.1),
    Confidences(60, over=0.1),
    Confidences(60, over=0.15, turn=0.5),
    Confidences(60, over=0.3, off=0.1),
    Confidences(60, over=0.0, off=0.0),
    Confidences(200, over=0.02),
)
EQUALS: tuple[Items, ...] = (
    Items(100, teacher=0.5, trained=0.5, untrained=0.3),
    Items(500, teacher=0.7, trained=0.7, untrained=0.3),
    Items(300, teacher=0.7, trained=0.7, untrained=0.3, together=6),
)


def main(sets: int = 1000, output: Path | None = RESULTS / "coverage") -> None:
    """Simulate all worlds.

    Args:
        sets: data sets a world.
        output: where the table goes, without a suffix.
    """
    start = time.perf_counter()
    rows = [each for world in WORLDS for each in simulate(world, sets)]
    alarms = {str(world): false_alarms(world, sets) for world in EQUALS}
    took = time.perf_counter() - start
    facts = {
        "sets": sets,
        "nominal": 0.95,
        "seconds": round(took, 1),
        "seeds": {"data sets": 1, "equal models": 2, "resampling": 0},
        "rows": [vars(each) | {"coverage": each.coverage} for each in rows],
        "mcnemar": alarms,
    }
    publish(described(rows, alarms, sets, took), facts, output)


def described(rows: list[Row], alarms: Mapping[str, float], sets: int, took: float) -> str:
    missed = [each for each in rows if not LEAST <= each.coverage <= MOST]
    lines = [
        f"# Coverage of 95 % intervals over {sets:,} data sets a row",
        "",
        f"{len(rows) - len(missed)} of {len(rows)} lie within 93 to 97 %. A row is known to "
        f"±{196 * math.sqrt(0.95 * 0.05 / sets):.1f} points. Seeds 1 (data sets), 2 (equal models) "
        f"and 0 (resampling); {took:.0f} s.",
        "",
        table(
            ["estimator", "world", "covers", "below the truth", "above it", "refused", "width"],
            [
                [
                    each.estimator,
                    each.world,
                    f"{100 * each.coverage:.1f} %" + ("" if each not in missed else " **!**"),
                    str(each.below),
                    str(each.above),
                    str(each.refused),
                    f"{each.width:.3g}",
                ]
                for each in rows
            ],
        ),
        "",
        "Two equally good models are called different at p < 0.05, which should be in at most 5 %:",
        "",
        table(
            ["equally good models", "called different"],
            [[world, f"{100 * share:.1f} %"] for world, share in alarms.items()],
        ),
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    tyro.cli(main)
