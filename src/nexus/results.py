"""What `evaluation.json` says: every number of the report, with its interval and its sample size.

    heldout   documents, tokens, bytes: what was read
              teacher, untrained, trained: Quality
              gap_closed: by loss, the share of untrained-to-teacher that training closed
              perplexity_ratio: by student, its perplexity over the teacher's
              change: by measure, trained minus untrained, paired by document
    rollouts  the same divergences on text that the student itself wrote, and the exposure gap
    tasks     by task: scores of all models, retention, paired comparisons
    speed     teacher, student: prefill and decode rates by batch size · speedup · how measured
    size      by model: parameters, parameters without embeddings, bytes on disk, FLOPs a token
    samples   prompt with the teacher's and the student's continuation
    quantized the student in few bits: size, quality beside teacher and student, speed; and the same
              after it was trained in few bits (distilled), with what that brought
    stages    of a run whose student becomes smaller from stage to stage: what each stage cost and
              was worth
    forms     the way from the teacher to the student in few bits, model by model: what each takes,
              is worth, and differs by from the one before
    cuts      what was proved of each student that was cut, and how the shapes of a search fared

An estimate that would mean nothing is a `Refused` with its reason, never a number.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from nexus import durable
from nexus.errors import UsageError
from nexus.proofs import CutRecord
from nexus.redaction import redacted
from nexus.spec import Spec

FILE_NAME = "evaluation.json"

Unit = Literal["nats", "share", "bits/byte", "tokens/s", "s", "×", ""]


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
    acceptance: Estimate | None = None
    """Σ min(p, q): how often speculative decoding would accept the model's token."""
    nll: Estimate
    perplexity: Estimate
    bits_per_byte: Estimate | None = None
    entropy: Estimate | None = None
    """Of the model's own next-token distribution, in nats."""
    calibration: Calibration | None = None


class Bin(Spec):
    """The positions at which a model was about equally sure of its most likely token."""

    confidence: float
    """The mean probability of that token."""
    accuracy: float
    """How often it was the text's."""
    share: float
    """Of all positions."""


class Calibration(Spec):
    """Whether a model's confidence in its most likely token is how often that token is right."""

    ece: Estimate
    """The expected calibration error less its bias: never below 0; the interval is bias-aware."""
    uncorrected: float
    """The plain sum over bins, which is the larger the more bins and the fewer tokens there are."""
    bias: float
    """What a perfectly calibrated model would score on as many tokens of as many documents."""
    bins: tuple[Bin, ...] = ()


class Rollouts(Spec):
    """Fidelity on text that the student itself wrote after the beginnings of held-out documents."""

    documents: int
    tokens: int
    trained: Quality
    exposure_gap: dict[str, Estimate] = {}
    """By measure: on the student's own text minus on the held-out text, paired by document."""


class Heldout(Spec):
    """Fidelity on documents that nothing was trained on."""

    documents: int
    tokens: int
    bytes: int
    teacher: Quality | None = None
    """Absent when one model was measured alone."""
    untrained: Quality | None = None
    """The student before the first step: what initialisation alone is worth."""
    trained: Quality
    gap_closed: dict[str, Estimate | Refused] = {}
    perplexity_ratio: dict[str, Estimate] = {}
    change: dict[str, Estimate] = {}


class Comparison(Spec):
    """Two models on the same items, paired."""

    difference: Estimate
    """The first one's score minus the second one's, with the interval of the paired difference."""
    gained: int
    """Items that only the first one got right, or on which it scored higher."""
    lost: int
    """Items that only the second one got right, or on which it scored higher."""
    p_value: float
    """McNemar's exact two-sided test (Binomial over the discordant items). For scores between right
    and wrong, and for items in clusters, the test that it is a case of: signs flipped at random."""


class TaskResult(Spec):
    """One task: every model's scores, what is left of the teacher's, and paired comparisons.

    Models are named `teacher`, `untrained`, `trained`.
    """

    kind: str
    """`choice`, `cloze`, `classification`, `generation`, or `lm_eval`."""
    metric: str
    """Which of the scores the comparisons are about."""
    items: int
    chance: float
    """What guessing scores: the mean of 1/choices, the share of the most frequent label, or 0."""
    fingerprint: str = ""
    """Of the items and of how they are put to a model: equal ones can be paired."""
    trained_on: bool = False
    """Whether the training mix holds data of this task; else a loss on it is forgetting."""
    scores: dict[str, dict[str, Estimate]] = {}
    """By model, then by metric."""
    unanswered: dict[str, int] = {}
    """By model: answers in which nothing of the asked form was found. They count as wrong."""
    teacher_above_chance: bool | None = None
    """Whether its interval lies above chance; without it retention would be a ratio of noise."""
    retention: dict[str, Estimate | Refused] = {}
    """Of the trained student: `raw`, `above_chance`, and `gap_closed` from the untrained one."""
    comparisons: dict[str, Comparison] = {}
    """`trained - teacher` and `trained - untrained`."""
    seconds: float = 0.0


class Rates(Spec):
    """How fast one model reads and writes: medians over rounds, with quartiles."""

    prefill: Estimate
    decode: Estimate
    first_token: Estimate | None = None
    """Seconds from the prompt to the first token."""
    dtype: str


class Speed(Spec):
    """Teacher and student timed in turns in one process, so that both met the same machine."""

    teacher: Rates | None = None
    """Absent when one model was timed alone."""
    student: Rates
    speedup: dict[str, Estimate] = {}
    """Student over teacher within each round, for `prefill` and for `decode`."""
    device: str
    threads: int
    batch: int = 1
    prompt_tokens: int
    new_tokens: int
    seconds: float
    peak_memory_gib: float
    """The highest memory of the whole process so far, teacher and student together."""
    memory_gib: dict[str, float] = {}
    """By model: the most that loading it alone and decoding with it took, at this batch size."""
    batches: tuple[SpeedAt, ...] = ()
    """The same at other batch sizes."""
    left_out: tuple[str, ...] = ()
    """Batch sizes that were asked for and not measured, each with the reason."""


class SpeedAt(Spec):
    """Teacher and student timed in turns at one batch size."""

    batch: int
    teacher: Rates | None = None
    student: Rates
    speedup: dict[str, Estimate] = {}
    prompt_tokens: int
    new_tokens: int


class Size(Spec):
    """How big a model is."""

    parameters: int
    parameters_without_embeddings: int
    """Without the input embedding and the head, which are a lookup and one product a token."""
    bytes_on_disk: int | None = None
    flops_per_token: float | None = None
    """Of a forward pass, by token, when each attends to 1,024 (or all that the model reads)."""
    dtype: str
    """Of the weights on disk, if they lie there; else in memory."""


class Sample(Spec):
    """One prompt, continued greedily by both."""

    prompt: str
    teacher: str
    student: str


class StageResult(Spec):
    """A stage of a run whose student becomes smaller from stage to stage."""

    name: str
    teacher: Literal["original", "previous", "none"]
    """Whom it learnt from: the run's teacher, the student of the stage before; none: the text."""
    parameters: int
    steps: int
    tokens: int
    """Positions that the stage trained on."""
    student_flops: float | None = None
    """Of its passes forwards and backwards over them; a cut's look at some text is not counted."""
    teacher_flops: float | None = None
    begun: Quality | None = None
    """The student before the stage's first step: right after the cut, where there is one. Always
    beside the run's teacher, whoever taught the stage."""
    ended: Quality | None = None
    cost_of_cut: dict[str, Estimate] = {}
    """By measure: after the cut minus before it, paired by document."""
    change: dict[str, Estimate] = {}
    """By measure: what training changed, `ended` minus `begun`, paired by document."""
    bytes_on_disk: int | None = None
    speed: Speed | None = None
    """Teacher and student, timed where the next stage cuts on; the last one's is the run's."""


class Form(Spec):
    """A model on the way from the teacher to the student in few bits."""

    kind: Literal["teacher", "cut", "untrained", "trained", "few_bits", "few_bits_trained"]
    """`cut`: right after it; `untrained`: a student that was not cut, before its first step."""
    stage: str = ""
    """Of a student that becomes smaller from stage to stage."""
    taught: bool = True
    """Whether it was trained by a teacher, and not by the text alone."""
    name: str = ""
    """The folder of one in few bits."""
    parameters: int
    bytes_on_disk: int | None = None
    memory_gib: float | None = None
    """The most that loading it alone and decoding with it took."""
    prefill: Estimate | None = None
    decode: Estimate | None = None
    dtype: str = ""
    """What speed and memory were measured in."""
    same_size: bool = False
    """Bytes, memory and speed are those of the form of the same shape, and not measured again."""
    forward_kl: Estimate | None = None
    """From the run's teacher, like agreement."""
    agreement: Estimate | None = None
    change: dict[str, Estimate] = {}
    """By measure, minus the form that it was made of: what the cut or few bits cost, what training
    brought back. Paired by document; from the teacher itself, whose KL is 0 and agreement 1."""


FEW_BITS = "quantize"
"""What training within few bits is called in metrics and checkpoints."""


class QuantizedTraining(Spec):
    """How a student was trained in few bits."""

    parameters: Literal["scales", "weights"]
    steps: int
    tokens: int
    learning_rate: float


class OverRounded(Spec):
    """What training in few bits brought: after it minus rounded alone, paired by document."""

    to_teacher: dict[str, Estimate] = {}
    """By measure beside the teacher."""
    to_student: dict[str, Estimate] = {}
    """By measure beside the student as it was."""
    perplexity_ratio: Estimate | None = None


class QuantizedResult(Spec):
    """The student in few bits, beside the student that it was made of."""

    name: str
    """Its folder in the run directory."""
    scheme: str
    layers: int
    """How many are in few bits."""
    kept: dict[str, str]
    """Those that are not, though they hold matrices, each with the reason; embeddings apart."""
    bits_per_weight: float
    """Of the layers in few bits, their scales included."""
    size: Size
    to_teacher: Quality | None = None
    to_student: Quality | None = None
    """With divergences from the student, where `to_teacher` has those from the teacher."""
    change: dict[str, Estimate] = {}
    """By measure beside the teacher: in few bits minus the student, paired by document."""
    perplexity_ratio: Estimate | None = None
    """Over the student's own."""
    speed: Speed | None = None
    """Of the student (`teacher`) and of its form in few bits (`student`), both in bfloat16."""
    training: QuantizedTraining | None = None
    """Absent where it was rounded alone."""
    over_rounded: OverRounded | None = None
    distilled: QuantizedResult | None = None
    """The same bits and groups after training; as fast as the one that was rounded alone."""


class Evaluation(Spec):
    """The whole of `evaluation.json`. A part that was not measured is absent."""

    heldout: Heldout | None = None
    rollouts: Rollouts | None = None
    tasks: dict[str, TaskResult] = {}
    speed: Speed | None = None
    size: dict[str, Size] = {}
    samples: tuple[Sample, ...] = ()
    stages: tuple[StageResult, ...] = ()
    quantized: QuantizedResult | None = None
    forms: tuple[Form, ...] = ()
    cuts: tuple[CutRecord, ...] = ()

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


class Subject(Spec):
    """A model that was measured, and in what form."""

    name: str
    fingerprint: str
    """Of its weights, its tokenizer and its chat template, and of the type it computes in."""
    dtype: str


class Measured(Spec):
    """What `nexus evaluate` says of a model: as in a run's evaluation, where it is `trained`."""

    model: Subject
    teacher: Subject | None = None
    text: str = ""
    """The fingerprint of the held-out documents as tokens: equal ones can be paired."""
    sources: tuple[str, ...] = ()
    """Where the text came from."""
    evaluation: Evaluation
    seconds: float
