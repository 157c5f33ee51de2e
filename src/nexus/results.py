"""What `evaluation.json` says: every number of the report, with its interval and its sample size.

    heldout   documents, tokens, bytes: what was read
              teacher, untrained, trained: Quality
              gap_closed: by loss, the share of untrained-to-teacher that training closed
              perplexity_ratio: by student, its perplexity over the teacher's
              change: by measure, trained minus untrained, paired by document
    speed     teacher, student: prefill and decode rates · speedup · how they were measured
    size      by model: parameters, parameters without embeddings, bytes on disk
    samples   prompt with the teacher's and the student's continuation

An estimate that would mean nothing is a `Refused` with its reason, never a number.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from nexus import durable
from nexus.errors import UsageError
from nexus.redaction import redacted
from nexus.spec import Spec

FILE_NAME = "evaluation.json"

Unit = Literal["nats", "share", "bits/byte", "tokens/s", "×", ""]


class Estimate(Spec):
    """A number, how uncertain it is, and how many things it was estimated from."""

    value: float
    low: float | None = None
    """Lower end of the 95 % interval over documents; for speeds, the lower quartile over rounds."""
    high: float | None = None
    n: int
    """Documents (or rounds) behind the number. The interval is absent when there is only one."""
    unit: Unit = ""


class Refused(Spec):
    """A number that was not computed because it would have meant nothing."""

    reason: str


class Quality(Spec):
    """What one model does on the held-out documents. Divergences are absent for the teacher."""

    forward_kl: Estimate | None = None
    """KL(teacher ‖ model) per token, at temperature 1."""
    reverse_kl: Estimate | None = None
    """KL(model ‖ teacher) per token, at temperature 1."""
    agreement: Estimate | None = None
    """Share of positions at which model and teacher have the same most likely token."""
    nll: Estimate
    perplexity: Estimate
    bits_per_byte: Estimate | None = None


class Heldout(Spec):
    """Fidelity on documents that nothing was trained on."""

    documents: int
    tokens: int
    bytes: int
    teacher: Quality
    untrained: Quality | None = None
    """The student before the first step: what initialisation alone is worth."""
    trained: Quality
    gap_closed: dict[str, Estimate | Refused] = {}
    perplexity_ratio: dict[str, Estimate] = {}
    change: dict[str, Estimate] = {}


class Rates(Spec):
    """How fast one model reads and writes: medians over rounds, with quartiles."""

    prefill: Estimate
    decode: Estimate
    dtype: str


class Speed(Spec):
    """Teacher and student timed in turns in one process, so that both met the same machine."""

    teacher: Rates
    student: Rates
    speedup: dict[str, Estimate]
    """Student over teacher within each round, for `prefill` and for `decode`."""
    device: str
    threads: int
    batch: int = 1
    prompt_tokens: int
    new_tokens: int
    seconds: float
    peak_memory_gib: float
    """The highest memory of the whole process so far, teacher and student together."""


class Size(Spec):
    """How big a model is."""

    parameters: int
    parameters_without_embeddings: int
    """Without the input embedding and the head, which are a lookup and one product a token."""
    bytes_on_disk: int | None = None
    dtype: str
    """Of the weights on disk, if they lie there; else in memory."""


class Sample(Spec):
    """One prompt, continued greedily by both."""

    prompt: str
    teacher: str
    student: str


class Evaluation(Spec):
    """The whole of `evaluation.json`. A part that was not measured is absent."""

    heldout: Heldout | None = None
    speed: Speed | None = None
    size: dict[str, Size] = {}
    samples: tuple[Sample, ...] = ()

    def save(self, run: Path) -> Path:
        """Write `evaluation.json` into the run directory: the whole file or none of it."""
        path = run / FILE_NAME
        durable.write(path, redacted(self.model_dump_json(indent=2)) + "\n")
        return path

    @classmethod
    def load(cls, run: Path) -> Evaluation | None:
        """What the run directory holds, or nothing when it was never evaluated."""
        path = run / FILE_NAME
        if not path.exists():
            return None
        try:
            values = dict(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError, RecursionError) as error:
            raise UsageError(
                f"{path} is not JSON ({error}). Delete it and evaluate the run again."
            ) from None
        return cls.parse(values, where=str(path))
