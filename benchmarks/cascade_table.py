"""What the arms of `cascade.py` came to, paired by seed, as tables."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from machine import described as machine_described
from results import table

from nexus.results import Evaluation

STUDENT_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""97.5 % quantiles of Student's t with 1, 2, … degrees of freedom."""

PAIRS = (
    ("cascade", "one-shot"),
    ("cascade-previous", "one-shot"),
    ("cascade", "one-shot-flops"),
    ("one-shot", "one-shot-ce"),
)
MEASURES = {"forward_kl": "KL to the teacher", "nll": "loss on text"}


@dataclass(frozen=True)
class Arm:
    """How a student becomes small, and what it learns from."""

    name: str
    title: str
    steps_down: int = 1
    teacher: Literal["original", "previous"] = "original"
    learns: Literal["kd", "ce"] = "kd"
    like: str = ""
    """The arm whose FLOPs it spends, on as many tokens as it takes."""


@dataclass(frozen=True)
class Spent:
    """A stage."""

    name: str
    parameters: int
    tokens: int
    student_flops: float
    teacher_flops: float


@dataclass(frozen=True)
class Measured:
    """One arm with one seed, on the held-out documents."""

    forward_kl: float
    agreement: float
    nll: float
    perplexity: float
    perplexity_ratio: float
    teacher_perplexity: float
    untrained_kl: float
    """Right after the last cut."""
    documents: int
    tokens: int
    stages: tuple[Spent, ...]

    @classmethod
    def of(cls, evaluation: Evaluation, arm: Arm, tokens: int) -> Measured:
        heldout = evaluation.heldout
        if heldout is None or heldout.untrained is None or heldout.teacher is None:
            raise ValueError(f"{arm.name} has no held-out text")
        trained, untrained = heldout.trained, heldout.untrained
        if not trained.forward_kl or not trained.agreement or not untrained.forward_kl:
            raise ValueError(f"{arm.name} was not compared with its teacher")
        return cls(
            forward_kl=trained.forward_kl.value,
            agreement=trained.agreement.value,
            nll=trained.nll.value,
            perplexity=trained.perplexity.value,
            perplexity_ratio=heldout.perplexity_ratio["trained"].value,
            teacher_perplexity=heldout.teacher.perplexity.value,
            untrained_kl=untrained.forward_kl.value,
            documents=heldout.documents,
            tokens=heldout.tokens,
            stages=spent(evaluation, arm, tokens),
        )

    @property
    def flops(self) -> float:
        return sum(stage.student_flops + stage.teacher_flops for stage in self.stages)

    @property
    def facts(self) -> dict[str, Any]:
        return {**asdict(self), "flops": self.flops}


def spent(evaluation: Evaluation, arm: Arm, tokens: int) -> tuple[Spent, ...]:
    """Tokens and arithmetic by stage; a run of one stage says what they come to by its sizes."""
    if evaluation.stages:
        return tuple(
            Spent(one.name, one.parameters, one.tokens, one.student_flops or 0.0,
                  one.teacher_flops or 0.0)
            for one in evaluation.stages
        )  # fmt: skip
    student, teacher = evaluation.size["student"], evaluation.size["teacher"]
    told = (teacher.flops_per_token or 0.0) if arm.learns == "kd" else 0.0
    forward = student.flops_per_token or 0.0
    return (Spent("quarter", student.parameters, tokens, 3 * forward * tokens, told * tokens),)


def paired(found: Mapping[str, Mapping[int, Measured]]) -> list[dict[str, Any]]:
    """What arms differ by, seed by seed: the mean with its interval over seeds."""
    pairs = [(one, other) for one, other in PAIRS if found.get(one) and found.get(other)]
    return [
        {
            "pair": f"{one} - {other}",
            "measure": measure,
            **interval([
                getattr(found[one][seed], measure) - getattr(found[other][seed], measure)
                for seed in found[one]
            ]),
            "of": statistics.mean(getattr(run, measure) for run in found[other].values()),
        }
        for one, other in pairs
        for measure in MEASURES
    ]  # fmt: skip


def interval(differences: Sequence[float]) -> dict[str, Any]:
    """The mean, and 95 % of Student's t around it where there is more than one."""
    mean, n = statistics.mean(differences), len(differences)
    found: dict[str, Any] = {"each": list(differences), "mean": mean, "low": None, "high": None}
    if n > 1:
        half = STUDENT_T[min(n - 1, len(STUDENT_T)) - 1] * statistics.stdev(differences) / n**0.5
        found |= {"low": mean - half, "high": mean + half}
    return found


def verdict(row: Mapping[str, Any]) -> str:
    """A sentence: which is better, or that nobody can tell."""
    one, other = row["pair"].split(" - ")
    share = f"{abs(row['mean']) / row['of']:.1%}"
    if row["low"] is None:
        return f"{one} and {other}: with one seed nothing can be said."
    if row["low"] <= 0 <= row["high"]:
        most = max(abs(row["low"]), abs(row["high"])) / row["of"]
        return (
            f"No difference was detected between {one} and {other} ({MEASURES[row['measure']]}); "
            f"one of more than {most:.1%} either way is unlikely."
        )
    better = "better" if row["high"] < 0 else "worse"
    return f"{one} is {better} than {other} by {share} ({MEASURES[row['measure']]})."


def described(
    facts: Mapping[str, Any], arms: Sequence[Arm], found: Mapping[str, Mapping[int, Measured]]
) -> str:
    one = next(iter(found[arms[0].name].values()))
    teacher, seeds = facts["teacher"], facts["seeds"]
    shapes = " and ".join(
        ", ".join(f"{size} {axis}" for axis, size in shape.items())
        for shape in facts["cuts"].values()
    )
    return "\n".join(
        [
            "# In two steps or at once: a cut of 75 % on equally many tokens", "",
            machine_described(facts["machine"]), "",
            f"Text: {', '.join(facts['text'])}. The teacher: a Llama of "
            f"{teacher['parameters'] / 1e6:.1f}M parameters, trained from nothing on "
            f"{teacher['tokens']:,} tokens to a held-out perplexity of "
            f"{one.teacher_perplexity:.1f}. Students: {shapes}, the same for all arms. "
            f"{one.documents} held-out documents, {one.tokens:,} tokens. Mean over seeds "
            f"{', '.join(map(str, seeds))} [range].", "",
            arms_table(arms, found), "",
            "## What was spent", "",
            "FLOPs of training, student and teacher together; a cut's look at text and the "
            "teacher's own training are not in them.", "",
            spent_table(arms, found), "",
            "## Paired by seed", "",
            "The first arm minus the second, with 95 % of Student's t over seeds: the same "
            "teacher, held-out text and order of text in both. Below 0 the first is better.", "",
            pairs_table(facts["paired"]), "",
            *dict.fromkeys(f"- {verdict(row)}" for row in facts["paired"]),
        ]
    )  # fmt: skip


def arms_table(arms: Sequence[Arm], found: Mapping[str, Mapping[int, Measured]]) -> str:
    header = ["cut", "KL as last cut", *MEASURES.values(), "agreement, %", "perplexity",
              "over the teacher's"]  # fmt: skip
    columns = {"untrained_kl": 2, "forward_kl": 4, "nll": 4, "agreement": 1, "perplexity": 2,
               "perplexity_ratio": 3}  # fmt: skip
    rows = [
        [arm.title, *(_cell(found[arm.name], name, digits) for name, digits in columns.items())]
        for arm in arms
    ]
    return table(header, rows)


def spent_table(arms: Sequence[Arm], found: Mapping[str, Mapping[int, Measured]]) -> str:
    rows = []
    for arm in arms:
        one = next(iter(found[arm.name].values()))
        rows += [
            [
                f"{arm.title}: {stage.name}" if len(one.stages) > 1 else arm.title,
                f"{stage.parameters / 1e6:.2f}M", f"{stage.tokens:,}",
                f"{stage.student_flops / 1e12:.1f}", f"{stage.teacher_flops / 1e12:.1f}",
                f"{one.flops / 1e12:.1f}" if stage is one.stages[-1] else "",
            ]
            for stage in one.stages
        ]  # fmt: skip
    header = ["stage", "parameters", "tokens", "TFLOPs, student", "teacher", "all stages"]
    return table(header, rows)


def pairs_table(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = []
    for row in rows:
        span = "" if row["low"] is None else f"{row['low']:+.4f} to {row['high']:+.4f}"
        share = f"{row['mean'] / row['of']:+.1%}"
        lines.append([row["pair"], MEASURES[row["measure"]], f"{row['mean']:+.4f}", span, share])
    return table(["pair", "measure", "difference", "95 % interval", "of the second"], lines)


def _cell(runs: Mapping[int, Measured], name: str, digits: int) -> str:
    scale = 100 if name == "agreement" else 1
    values = [scale * getattr(run, name) for run in runs.values()]
    text = f"{statistics.mean(values):.{digits}f}"
    if len(values) > 1:
        text += f" [{min(values):.{digits}f}–{max(values):.{digits}f}]"
    return text
