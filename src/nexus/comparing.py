"""nexus evaluate --compare: two models on the same text and tasks, paired."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import NormalDist
from tempfile import TemporaryDirectory
from typing import Literal

from nexus import fingerprint
from nexus.contrasts import Contrast, Contrasts
from nexus.errors import UsageError
from nexus.evaluating import FILE_NAME, measured, text_key, text_of
from nexus.evaluation.answers import Answers
from nexus.evaluation.fidelity import Fidelity
from nexus.evaluation.holm import holm
from nexus.evaluation.kept import Kept, folder_of
from nexus.evaluation.mcnemar import paired_test
from nexus.evaluation.power import detectable_difference
from nexus.evaluation.retention import difference
from nexus.evaluation.scoreboard import compare as compare_answers
from nexus.examination import Examination, Request, examination
from nexus.results import Estimate, Heldout, Measured, TaskResult, Unit
from nexus.voice import Say

LEVEL = 0.05
RULE_OF_THREE = 3
"""Where of n items none came out otherwise, the share that does may still be 3/n."""

_MEASURES: dict[str, tuple[str, Unit, bool]] = {
    "student_nll": ("nll", "nats", False),
    "forward_kl": ("forward_kl", "nats", False),
    "reverse_kl": ("reverse_kl", "nats", False),
    "agreement": ("agreement", "share", True),
    "acceptance": ("acceptance", "share", True),
}
"""By column of the sums: the measure's name, its unit, and whether more of it is better."""


@dataclass(frozen=True)
class Side:
    """What was measured of one of the two, with what it was computed from."""

    name: str
    found: Measured
    output: Path

    @property
    def _kept(self) -> Kept:
        return Kept(folder_of(self.output, self.found.model.fingerprint))

    def sums(self) -> Fidelity:
        teacher = self.found.teacher.fingerprint if self.found.teacher else ""
        known = self._kept.known_fidelity(text_key(self.found.text, teacher))
        if known is None:
            raise self._lost("its sums over the text")
        return known

    def answers(self, name: str) -> Answers:
        result = self.found.evaluation.tasks[name]
        known = self._kept.known_answers(name, result.fingerprint)
        if known is None:
            raise self._lost(f"its answers to '{name}'")
        return known

    def _lost(self, what: str) -> UsageError:
        return UsageError(
            f"{self.name} was measured, but {what} are no longer in {self.output}. Evaluate it "
            "again"
        )


def compare(first: str, second: str, request: Request, say: Say) -> Contrasts:
    """Measure two models on the same text and tasks, or read what was kept, and compare them.

    Args:
        first: a model, a run, or a directory that `nexus evaluate --output` wrote.
        second: another one.
        request: on what, and in what form; its model is of no concern.
        say: told in a sentence what begins.

    Raises:
        UsageError: there is nothing that both were measured on, or what they were measured on
            differs. Names both and the remedy.
    """
    with TemporaryDirectory() as place:
        output = request.output or Path(place)
        request = replace(request, speed_seconds=0.0)
        asked = _asked((first, second), request)
        _refuse_other_tokens((first, second), asked, say)
        sides = [
            _side(name, each, output / label, say)
            for name, each, label in zip((first, second), asked, ("first", "second"), strict=True)
        ]
        return contrasts(*sides, seed=request.seed)


def contrasts(first: Side, second: Side, *, seed: int = 0) -> Contrasts:
    """Every measure that both sides have, with Holm's correction over all of them."""
    left_out: list[str] = []
    rows = [*_of_text(first, second, seed, left_out), *_of_tasks(first, second, seed, left_out)]
    if not rows:
        raise UsageError(
            f"{first.name} and {second.name} have nothing in common to be compared by"
            f"{_because(left_out)}. Give both the same --text and --tasks"
        )
    adjusted = holm({row.measure: row.p_value for row in rows})
    return Contrasts(
        first=first.found.model,
        second=second.found.model,
        rows=tuple(_judged(row, adjusted[row.measure]) for row in rows),
        left_out=tuple(left_out),
    )


def _asked(names: tuple[str, str], request: Request) -> list[Examination | None]:
    """What is still to be measured of each; a run's text and tasks are the other's too."""
    fresh = [not _is_kept(name) for name in names]
    if not any(fresh) and (request.text or request.tasks or request.teacher):
        raise UsageError(
            f"{names[0]} and {names[1]} hold what was measured before, which --text, --tasks and "
            "--teacher cannot change. Leave those out, or name the models themselves"
        )
    requests = [replace(request, model=name) for name in names]
    own = [examination(each) if todo else None for each, todo in zip(requests, fresh, strict=True)]
    return [
        examination(requests[at], like=own[1 - at]) if own[at] is not None else None
        for at in range(2)
    ]


def _refuse_other_tokens(
    names: tuple[str, str], asked: Sequence[Examination | None], say: Say
) -> None:
    """Text that two tokenizers cut differently cannot be paired, which need not be measured."""
    both = [each for each in asked if each is not None and each.sources]
    if len(both) < len(names):
        return
    if len({fingerprint.of_tokenizer(each.model.tokenizer) for each in both}) == 1:
        return
    if len({text.fingerprint for each in both if (text := text_of(each, say))}) > 1:
        labels = [tuple(source.label for source in each.sources) for each in both]
        raise _unpaired(dict(zip(names, labels, strict=True)))


def _unpaired(sources: Mapping[str, Sequence[str]]) -> UsageError:
    where = " and ".join(f"{name} on {', '.join(some)}" for name, some in sources.items())
    return UsageError(
        f"{where}: these are other documents, or another tokenizer cuts them into other "
        "tokens, so that losses cannot be paired. Give both the same --text and "
        "--sequence-length; models with different tokenizers are compared on --tasks alone"
    )


def _is_kept(name: str) -> bool:
    path = Path(name)
    return (path / FILE_NAME).is_file() and not (path / "recipe.yaml").is_file()


def _side(name: str, asked: Examination | None, output: Path, say: Say) -> Side:
    if asked is not None:
        output = asked.output or output
        return Side(name, measured(asked, output, say), output)
    file = Path(name) / FILE_NAME
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        return Side(name, Measured.parse(values, str(file)), Path(name))
    except (ValueError, TypeError) as error:
        raise UsageError(f"{file} is damaged ({error}). Evaluate the model again") from None


def _of_text(first: Side, second: Side, seed: int, left_out: list[str]) -> Iterator[Contrast]:
    texts = (first.found.text, second.found.text)
    if not all(texts):
        if any(texts):
            only, other = (first, second) if texts[0] else (second, first)
            left_out.append(f"text, which {only.name} was measured on and {other.name} was not")
        return
    if texts[0] != texts[1]:
        raise _unpaired({side.name: side.found.sources for side in (first, second)})
    one, another = first.sums(), second.sums()
    teachers = [side.found.teacher for side in (first, second)]
    follow = all(teachers) and len({each.fingerprint for each in teachers if each}) == 1
    if any(teachers) and not follow:
        left_out.append("how closely each follows a teacher, since they have not the same one")
    for column, (measure, unit, more_is_better) in _MEASURES.items():
        if column != "student_nll" and not follow:
            continue
        apart = difference(one.per_token(column), another.per_token(column), unit=unit, seed=seed)
        values = [_of_quality(side.found.evaluation.heldout, measure) for side in (first, second)]
        yield _contrast(
            f"text: {measure}",
            more_is_better,
            (values[0], values[1]),
            apart,
            paired_test(one.documents[column] - another.documents[column], seed=seed),
            _detectable(apart),
        )


def _of_tasks(first: Side, second: Side, seed: int, left_out: list[str]) -> Iterator[Contrast]:
    ours, theirs = (side.found.evaluation.tasks for side in (first, second))
    for name in dict.fromkeys([*ours, *theirs]):
        if name not in ours or name not in theirs:
            only, other = (first, second) if name in ours else (second, first)
            left_out.append(f"task '{name}', which was put to {only.name} and not to {other.name}")
            continue
        one, other_one = ours[name], theirs[name]
        if one.fingerprint != other_one.fingerprint:
            raise UsageError(
                f"'{name}' was put to {first.name} with {one.items} items and to {second.name} "
                f"with {other_one.items}, and they or their wording are not the same. Evaluate "
                "both with the same file and the same --limit"
            )
        yield _of_task(name, one, other_one, (first.answers(name), second.answers(name)), seed)


def _of_task(
    name: str, one: TaskResult, other: TaskResult, answers: tuple[Answers, Answers], seed: int
) -> Contrast:
    metric = one.metric
    values = [each.scores[metric] for each in answers]
    found = compare_answers(values[0], values[1], answers[0].clusters, seed)
    discordant = max(found.gained + found.lost, RULE_OF_THREE) / one.items
    return _contrast(
        f"{name}: {metric}",
        True,
        (one.scores["trained"][metric], other.scores["trained"][metric]),
        found.difference,
        found.p_value,
        detectable_difference(one.items, discordant=min(1.0, discordant)),
    )


def _of_quality(heldout: Heldout | None, measure: str) -> Estimate:
    found = heldout.trained.model_dump()[measure] if heldout else None
    if found is None:
        raise ValueError(f"{measure} was summed up and is not in the evaluation")
    return Estimate.model_validate(found)


def _contrast(
    measure: str,
    more_is_better: bool,
    values: tuple[Estimate, Estimate],
    apart: Estimate,
    p_value: float,
    detectable: float | None,
) -> Contrast:
    return Contrast(
        measure=measure,
        higher_is_better=more_is_better,
        first=values[0],
        second=values[1],
        difference=apart,
        p_value=p_value,
        adjusted_p_value=p_value,
        detectable=detectable,
        verdict="none detected",
    )


def _judged(row: Contrast, adjusted: float) -> Contrast:
    verdict: Literal["first", "second", "none detected"] = "none detected"
    if adjusted < LEVEL:
        verdict = "first" if (row.difference.value > 0) == row.higher_is_better else "second"
    return row.model_copy(update={"adjusted_p_value": adjusted, "verdict": verdict})


def _detectable(apart: Estimate) -> float | None:
    """What four of five comparisons as noisy as this one would find: (z(.975) + z(.8)) × error."""
    if apart.low is None or apart.high is None:
        return None
    normal = NormalDist()
    sure, found = normal.inv_cdf(0.975), normal.inv_cdf(0.8)
    return (apart.high - apart.low) / 2 * (sure + found) / sure


def _because(left_out: list[str]) -> str:
    return f": {'; '.join(left_out)}" if left_out else ""
