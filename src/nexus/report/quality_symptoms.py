"""What held-out numbers, rollouts, sizes and speeds give reason to say."""

from __future__ import annotations

from nexus.report.fidelity import sureness
from nexus.report.reading import RunFiles, taught_by_corrected
from nexus.report.symptom import Rule, Symptom
from nexus.report.words import cell, count
from nexus.results import Estimate, Heldout, Quality

FEW_DOCUMENTS = 30
"""Below so many, an interval from resampling documents is too narrow: its ends come from the spread
of so few that it holds the truth noticeably less often than it says."""

LARGE_EXPOSURE = 0.25
"""Exposure gap over the held-out divergence from which it is worth acting on. A choice: a
smaller one would go under in the noise of eight short texts, and costs less than other methods."""

MISCALIBRATED = 0.02
"""Calibration error, beyond the teacher's, from which it is worth acting on. A choice: two points
off in a hundred hardly any use of a probability notices. A student is as good as what it imitates,
so that the teacher's own error is no fault of it."""

ABOUT_AS_BIG = 0.9
"""Of the teacher's parameters, from which nobody expects a student to be faster."""


def worse_than_untrained(files: RunFiles) -> Symptom | None:
    """Training moved the student away from its teacher: the whole interval of the change is so."""
    change = _change(files)
    if change is None or change.low is None or change.low <= 0:
        return None
    if taught_by_corrected(files.evaluation):
        return Symptom(
            "notable",
            "The student followed a corrected teacher away from the original",
            f"KL to the original rose by {cell(change).line} nats a token",
            "It learnt from what the first stage made of the teacher; all comparisons are with the "
            "teacher as it came",
            "Compare losses on the text; shorten the correction, or lower its learning rate, if "
            "the student is to stay near the original",
        )
    return Symptom(
        "serious",
        "The trained student is farther from the teacher than the untrained one",
        f"KL rose by {cell(change).line} nats a token",
        "The learning rate is too high, or the objectives pull elsewhere than to the teacher",
        "Divide train.learning_rate by three; train with the output objective alone; look whether "
        "the held-out text is of the kind that was trained on",
    )


def no_difference(files: RunFiles) -> Symptom | None:
    """The interval of the change holds both directions.

    Serious however small, since every other number of the page is of a student that may as well not
    have been trained.
    """
    change = _change(files)
    if change is None or change.low is None or change.high is None:
        return None
    if change.low > 0 or change.high < 0:
        return None
    return Symptom(
        "serious",
        "It cannot be told whether training did anything",
        f"KL changed by {cell(change).line} nats a token over {count(change.n)} documents",
        "Training was too short, or there is too little held-out text to see its effect",
        "Train for more steps; hold out more documents: four times as many halve the interval",
    )


def few_documents(files: RunFiles) -> Symptom | None:
    """Intervals over fewer than FEW_DOCUMENTS are too narrow to be believed."""
    heldout = _heldout(files)
    if heldout is None or heldout.documents >= FEW_DOCUMENTS:
        return None
    return Symptom(
        "notable",
        "The held-out text is of few documents",
        f"{count(heldout.documents)} documents, {FEW_DOCUMENTS} are the least to rely on",
        "Intervals come from resampling documents, and of few the extremes are missing",
        f"Hold out at least {FEW_DOCUMENTS} documents, better several hundred",
    )


def exposure_gap(files: RunFiles) -> Symptom | None:
    """On its own text the student follows its teacher much less.

    The interval must lie above zero, and the gap must be LARGE_EXPOSURE of what is on given text.
    """
    rollouts, heldout = files.evaluation and files.evaluation.rollouts, _heldout(files)
    if not rollouts or heldout is None:
        return None
    gap, there = rollouts.exposure_gap.get("forward_kl"), heldout.trained.forward_kl
    if gap is None or there is None or gap.low is None or gap.low <= 0:
        return None
    if gap.value < LARGE_EXPOSURE * there.value:
        return None
    return Symptom(
        "notable",
        "On text of its own the student follows the teacher much less",
        f"KL is {cell(gap).line} nats a token higher there than on held-out text "
        f"({cell(there).value})",
        "It was trained on text of others and never saw where its own mistakes lead",
        "Train on text that the teacher or the student itself has written (on-policy distillation, "
        "arXiv:2306.13649), or mix such text in",
    )


def too_sure(files: RunFiles) -> Symptom | None:
    """More confident than right, and more so than the teacher by MISCALIBRATED."""
    found = _miscalibration(files)
    if found is None or found[0] <= 0:
        return None
    return Symptom(
        "notable",
        "The student is surer than it is right",
        found[1],
        "Hard labels, top-k targets or many passes over little text sharpen a student",
        "Give distillation at temperature 1 on the whole vocabulary more weight than the task "
        "loss; divide the logits by a temperature above 1 when sampling",
    )


def too_unsure(files: RunFiles) -> Symptom | None:
    """Less confident than right, and more so than the teacher by MISCALIBRATED."""
    found = _miscalibration(files)
    if found is None or found[0] >= 0:
        return None
    return Symptom(
        "notable",
        "The student is less sure than it is right",
        found[1],
        "Training at a temperature above 1, or too short a training, leaves its guesses flat",
        "Train at temperature 1, or longer; divide the logits by a temperature below 1 when "
        "sampling",
    )


def smaller_not_faster(files: RunFiles) -> Symptom | None:
    """It saves memory and no time: the whole spread of the speed-up lies at 1 or below it."""
    evaluation = files.evaluation
    decode = evaluation.speed.speedup.get("decode") if evaluation and evaluation.speed else None
    if evaluation is None or decode is None or decode.low is None or decode.low > 1:
        return None
    teacher, student = evaluation.size.get("teacher"), evaluation.size.get("student")
    if not teacher or not student or student.parameters >= ABOUT_AS_BIG * teacher.parameters:
        return None
    return Symptom(
        "notable",
        "The student is smaller and writes no faster",
        f"decoding {cell(decode).line} of the teacher's speed with "
        f"{100 * student.parameters / teacher.parameters:.0f} % of its parameters",
        "Few wide layers are faster than many narrow ones; the head over the vocabulary costs the "
        "same for both",
        "Take layers out instead of width; measure on the device and at the batch size of use",
    )


RULES: tuple[Rule, ...] = (
    worse_than_untrained,
    no_difference,
    exposure_gap,
    too_sure,
    too_unsure,
    smaller_not_faster,
    few_documents,
)


def _heldout(files: RunFiles) -> Heldout | None:
    return files.evaluation.heldout if files.evaluation else None


def _change(files: RunFiles) -> Estimate | None:
    heldout = _heldout(files)
    return heldout.change.get("forward_kl") if heldout else None


def _miscalibration(files: RunFiles) -> tuple[float, str] | None:
    """The sign of the student's error and the numbers, if it is clearly worse than the teacher."""
    heldout = _heldout(files)
    if heldout is None or (own := heldout.trained.calibration) is None:
        return None
    teachers = _error(heldout.teacher)
    if own.ece.low is None or own.ece.low < teachers + MISCALIBRATED:
        return None
    apart = sureness(own)
    side = "above" if apart > 0 else "below"
    return apart, (
        f"calibration error {cell(own.ece).line}, teacher {100 * teachers:.1f} %; mean confidence "
        f"{100 * abs(apart):.1f} points {side} accuracy"
    )


def _error(quality: Quality | None) -> float:
    return quality.calibration.ece.value if quality and quality.calibration else 0.0
