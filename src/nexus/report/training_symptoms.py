"""What the curves of training and its data give reason to say."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from statistics import fmean, linear_regression, median
from typing import Any

from nexus import findings
from nexus.report.reading import RunFiles
from nexus.report.symptom import Rule, Symptom
from nexus.report.words import count, plain

FALLING = 0.03
"""Of its value, that KL must still lose. A choice: for less, nobody would train again."""

BEYOND_NOISE = 3.0
"""Standard errors of the slope. By chance one flat curve in 740 has such a one, and where the last
quarter is of ten steps, one in 120."""

LATE = 0.25
"""The part of a stage at its end over which it is told: shorter ones drown in noise."""

STILL = 0.8
"""How fast it must fall at the end of the last quarter, over how fast in the whole of it. Of a
straight line that is 1, of a curve that follows a cosine to its end two thirds at most."""

FEWEST_STEPS = 40
"""So that its last quarter has the ten points that a slope with an error takes."""

RISING = 0.03
"""Of its lowest value, that held-out KL must have risen again: as FALLING, to the other side."""

FEWEST_LOOKS = 3
"""Of two points one is always the lowest."""

BEFORE = 20
"""Steps that a step is compared with: enough for a median, few enough that a trend is no spike."""

SPIKE = 8.0
"""Typical deviations above the steps before it that make a step a spike: of a normal variable
5.4 standard deviations, so far that the few steps which tell them hardly matter."""

LEAST_DEVIATION = 0.01
"""Of the loss, that counts as a typical deviation at least, lest a smooth curve's ripples jump."""

MANY_CUT = 0.05
"""Of all documents. A choice: a few overlong ones are in most data and cost little; of more, a kind
of text may have been trained on without its ends."""


def still_falling(files: RunFiles) -> Symptom | None:
    """Training ended before it was done.

    Held-out points are of one text, and decide where the last quarter has enough of them. Else KL
    on training text does, whose slope must be beyond the noise of its batches. Either must fall by
    FALLING, since every curve falls a little for ever, and be STILL at it.
    """
    trained = _last_stage(files, "kl")
    late = _late_looks(files)
    where = "held-out text" if late else "training text"
    late = late or _late_means(trained)
    if not late:
        return None
    before, last, pace = late
    if before - last < FALLING * before or pace < STILL:
        return None
    return Symptom(
        "notable",
        "KL was still falling when training ended",
        f"{plain(before)} → {plain(last)} nats a token over the last quarter, on {where}",
        "The student had not learnt all it can",
        "Train for more steps (train.steps): a longer schedule is worth more than a second run",
    )


def overfitting(files: RunFiles) -> Symptom | None:
    """Held-out text gets worse while training text gets better.

    Either alone has other causes: a rate too high raises both, and text of another kind than what
    is trained on may part from it without any being learnt by heart.
    """
    heldout, trained = _last_stage(files, "heldout_kl"), _last_stage(files, "kl")
    if (
        len(heldout) < FEWEST_LOOKS
        or len(trained) < 2
        or heldout[-1] <= (1 + RISING) * min(heldout)
    ):
        return None
    fifth = max(1, len(trained) // 5)
    if fmean(trained[-fifth:]) >= fmean(trained[-2 * fifth : -fifth]):
        return None
    return Symptom(
        "serious",
        "Held-out KL rises while that on training text falls",
        f"held-out {plain(min(heldout))} → {plain(heldout[-1])} nats a token",
        "The student learns its training text by heart",
        "Use more text or fewer passes over it; lower train.learning_rate",
    )


def spikes(files: RunFiles) -> Symptom | None:
    """The loss jumps: above what the median deviation of the steps before it makes likely.

    Medians, since a spike would widen a standard deviation and hide the next one.
    """
    found = []
    losses = [(step, _finite(step.get("loss"))) for step in files.steps]
    known = [(step, loss) for step, loss in losses if loss is not None]
    for at in range(BEFORE, len(known)):
        before = [loss for _, loss in known[at - BEFORE : at]]
        middle = median(before)
        typical = median(abs(loss - middle) for loss in before)
        if known[at][1] > middle + SPIKE * max(typical, LEAST_DEVIATION * abs(middle)):
            found.append(f"step {known[at][0]['step']}: {plain(middle)} → {plain(known[at][1])}")
    if not found:
        return None
    return Symptom(
        "notable",
        "The loss jumps",
        _some(found),
        "The learning rate is too high for the batch, or single documents are unlike the others",
        "Lower train.learning_rate, raise train.warmup_steps or train.tokens_per_step; look at the "
        "rows of these steps",
    )


def skipped_steps(files: RunFiles) -> Symptom | None:
    """Steps whose numbers were not finite moved no weight. One is said: healthy runs have none."""
    found = [f"step {step['step']}" for step in files.steps if step.get("skipped")]
    if not found:
        return None
    return Symptom(
        "serious",
        "Steps were left out, for their numbers were not finite",
        _some(found),
        "Broken rows, or numbers beyond what the precision can hold",
        "Look at the rows that bad-batch-… files name; train with precision: fp32; lower "
        "train.learning_rate",
    )


def rate_lowered(files: RunFiles) -> Symptom | None:
    """Training went back and on with a lower learning rate.

    Once is enough: it happens only after several bad steps in a row.
    """
    found = [
        f"{each.stage}, step {each.step}"
        for each in findings.read(files.path)
        if each.remedy.startswith("Training goes back")
    ]
    if not found:
        return None
    return Symptom(
        "serious",
        "Training went back once and on with a lower learning rate",
        _some(found),
        "It was about to diverge",
        "Begin with the lower train.learning_rate, and a longer warm-up",
    )


def cut_documents(files: RunFiles) -> Symptom | None:
    """Ends of documents were not trained on, of more than MANY_CUT of them."""
    cut = documents = 0
    for facts in _training_sources(files.environment.get("data")):
        cut += int(facts.get("truncated") or 0) + int(facts.get("dropped") or 0)
        documents += int(facts.get("examples") or 0) + int(facts.get("dropped") or 0)
    if not documents or cut <= MANY_CUT * documents:
        return None
    return Symptom(
        "notable",
        "Many documents were cut or left out because they are too long",
        f"{count(cut)} of {count(documents)} documents",
        "data.sequence_length is shorter than they are",
        "Raise data.sequence_length, or keep their ends with data.over_long: split",
    )


RULES: tuple[Rule, ...] = (
    skipped_steps,
    rate_lowered,
    overfitting,
    still_falling,
    spikes,
    cut_documents,
)


def _last_stage(files: RunFiles, name: str) -> list[float]:
    if not files.steps:
        return []
    stage = files.steps[-1].get("stage")
    values = (_finite(step.get(name)) for step in files.steps if step.get("stage") == stage)
    return [value for value in values if value is not None]


def _finite(value: Any) -> float | None:
    """A number that can be reckoned with; metrics.jsonl writes "nan" where there was none."""
    known = isinstance(value, int | float) and math.isfinite(value)
    return float(value) if known else None


def _training_sources(data: Any) -> Iterable[Mapping[str, Any]]:
    for name, facts in (data or {}).items():
        if name.startswith("train") and isinstance(facts, Mapping):
            yield facts


def _late_looks(files: RunFiles) -> tuple[float, float, float] | None:
    """Held-out KL a quarter of the stage before its last point and there, and its pace.

    KL on training text may never have been computed, where only the text was learnt from.
    """
    stage = files.steps[-1].get("stage") if files.steps else None
    steps = [step for step in files.steps if step.get("stage") == stage]
    looks = [
        (int(step["step"]), value)
        for step in steps
        if (value := _finite(step.get("heldout_kl"))) is not None
    ]
    if len(looks) < FEWEST_LOOKS:
        return None
    end, last = looks[-1]
    before = [(at, value) for at, value in looks if at <= end - LATE * len(steps)]
    if not before or before[-1] == looks[-2]:
        return None
    (begin, first), (previous, value) = before[-1], looks[-2]
    at_all = (first - last) / (end - begin)
    return first, last, (value - last) / (end - previous) / at_all if at_all else 0.0


def _late_means(trained: list[float]) -> tuple[float, float, float] | None:
    """KL in the first and the last third of the last quarter, and its pace; if beyond noise."""
    if len(trained) < FEWEST_STEPS:
        return None
    late = trained[-int(LATE * len(trained)) :]
    steps = range(len(late))
    slope, start = linear_regression(steps, late)
    off = [value - start - slope * at for at, value in zip(steps, late, strict=True)]
    centre = fmean(steps)
    spread = sum((at - centre) ** 2 for at in steps)
    error = math.sqrt(sum(each * each for each in off) / (len(late) - 2) / spread)
    if -slope <= BEYOND_NOISE * error:
        return None
    third = len(late) // 3
    first, middle, last = (fmean(late[len(late) - at * third :][:third]) for at in (3, 2, 1))
    return first, last, 2 * (middle - last) / (first - last) if first > last else 0.0


def _some(found: list[str]) -> str:
    more = f" and {count(len(found) - 3)} more" if len(found) > 3 else ""
    return "; ".join(found[:3]) + more
