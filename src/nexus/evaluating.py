"""nexus evaluate: measure any model, or a run's student, alone or beside a teacher."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from transformers import PreTrainedModel

from nexus import durable
from nexus.candidates import Candidate
from nexus.data.texts import Texts, texts
from nexus.durable import Damaged
from nexus.errors import UsageError
from nexus.evaluation.exam import Examinee, exam
from nexus.evaluation.fidelity import Fidelity, measure
from nexus.evaluation.footprint import footprints
from nexus.evaluation.heldout import heldout
from nexus.evaluation.kept import Kept, folder_of
from nexus.evaluation.rollouts import rollouts
from nexus.evaluation.speed import speed
from nexus.examination import SEQUENCE_LENGTH, Examination, Request, examination
from nexus.kernels.lm_head import Trunk, head_rows, prove, split_head
from nexus.lock import acquire
from nexus.measuring import KEPT, PROMPT_TOKENS, UNTRAINED, can_be_continued
from nexus.redaction import redacted
from nexus.results import Evaluation, Heldout, Measured, Rollouts, Speed
from nexus.tokenizers import (
    ONE_FOR_BOTH,
    compare_tokenizers,
    real_vocabulary,
    shared_vocabulary,
)
from nexus.voice import Say

FILE_NAME = "measured.json"


def evaluate(request: Request, *, output: Path | None = None, say: Say) -> Measured:
    """Measure what a request names, and keep all of it where that is asked for.

    Args:
        request: which model, beside which teacher, on what.
        output: where to keep sums and answers, in place of what the request says.
        say: told in a sentence what begins.

    Raises:
        UsageError: for anything in models, text or tasks that the user can put right, in one line.
    """
    return measured(examination(request), output or request.output, say)


def measured(asked: Examination, output: Path | None, say: Say) -> Measured:
    """As `evaluate`, for what was made of a request; where it is a run, kept inside it."""
    begin = time.perf_counter()
    output = output or asked.output
    with one_writer(asked, output):
        read = text_of(asked, say)
        examinees = _examinees(asked, output, say)
        quality, own_text = None, None
        if read is not None:
            sums = _sums(asked, read, examinees["trained"].kept, say)
            quality = _heldout(asked, sums, say)
            own_text = _rollouts(asked, read, sums, say)
        tasks = exam(
            asked.tasks,
            examinees,
            folder=asked.tasks_folder,
            trained_on=asked.trained_on,
            say=say,
            seed=asked.seed,
        )
        teacher = asked.teacher
        found = Measured(
            model=asked.model.subject,
            teacher=teacher.subject if teacher else None,
            text=read.fingerprint if read else "",
            sources=tuple(source.label for source in asked.sources),
            evaluation=Evaluation(
                heldout=quality,
                rollouts=own_text,
                tasks=tasks,
                size={
                    **({"teacher": teacher.size} if teacher else {}),
                    "student": asked.model.size,
                },
                speed=_speed(asked, say),
            ),
            seconds=round(time.perf_counter() - begin, 3),
        )
        if output is not None:
            output.mkdir(parents=True, exist_ok=True)
            durable.write(output / FILE_NAME, redacted(found.model_dump_json(indent=2)) + "\n")
    return found


def text_key(text: str, teacher: str) -> str:
    """What sums over a text are kept under: they depend on the teacher, if there is one."""
    return hashlib.sha256(f"{text}\n{teacher}".encode()).hexdigest()


@contextmanager
def one_writer(asked: Examination, output: Path | None) -> Iterator[None]:
    """Keep others from writing where this one does."""
    if output is None:
        yield
    elif asked.run is not None and output == asked.output:
        with acquire(asked.run):
            yield
    else:
        if output.exists() and not output.is_dir():
            raise UsageError(f"--output {output} is a file. Name a directory")
        output.mkdir(parents=True, exist_ok=True)
        lock = FileLock(output / ".lock", timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise UsageError(
                f"--output {output} is being written by another evaluation. Wait for it, or name "
                "another directory"
            ) from None
        with lock:
            yield


def text_of(asked: Examination, say: Say) -> Texts | None:
    """The text that is to be measured on, in the tokens of the model; None if there is none."""
    if not asked.sources:
        return None
    teacher = asked.teacher
    if teacher is not None:
        _refuse_strangers(teacher, asked.model)
    say("reading and tokenising the text")
    limits = [each.context_limit for each in (asked.model, teacher) if each is not None]
    limit = min((limit for limit in limits if limit), default=None)
    length = asked.reading.length or min(SEQUENCE_LENGTH, limit or SEQUENCE_LENGTH)
    return texts(
        asked.sources,
        asked.model.tokenizer,
        asked.text_folder,
        length=length,
        packing=asked.reading.packing,
        over_long=asked.reading.over_long,
        on_bad_row=asked.reading.on_bad_row,
        special_tokens=asked.reading.special_tokens,
        rows=asked.reading.rows,
        context_limit=limit,
    )


def _refuse_strangers(teacher: Candidate, model: Candidate) -> None:
    try:
        compare_tokenizers(teacher.tokenizer, model.tokenizer, roles=False)
    except UsageError as error:
        sizes = [real_vocabulary(each.tokenizer) for each in (teacher, model)]
        reason = str(error).removesuffix(ONE_FOR_BOTH).strip()
        raise UsageError(
            f"How closely {model.name} (vocabulary of {sizes[1]} tokens) follows {teacher.name} "
            f"({sizes[0]}) cannot be measured: {reason} Leave out --text, and tasks and speed are "
            "measured of both; leave out --teacher, and loss and bits per byte of one"
        ) from None


def _examinees(asked: Examination, output: Path | None, say: Say) -> dict[str, Examinee]:
    found = {} if asked.teacher is None else {"teacher": _examinee(asked.teacher, output, say)}
    if asked.run is not None:
        before = Kept(asked.run / KEPT / UNTRAINED, say)
        found["untrained"] = Examinee(None, asked.model.tokenizer, before)
    return found | {"trained": _examinee(asked.model, output, say)}


def _examinee(model: Candidate, output: Path | None, say: Say) -> Examinee:
    folder = folder_of(output, model.subject.fingerprint) if output else None
    return Examinee(lambda: model.model, model.tokenizer, Kept(folder, say))


def _sums(asked: Examination, read: Texts, kept: Kept, say: Say) -> Fidelity:
    teacher = asked.teacher
    key = text_key(read.fingerprint, teacher.subject.fingerprint if teacher else "")
    return kept.fidelity(key, lambda: _fidelity(asked, read, say))


def _heldout(asked: Examination, sums: Fidelity, say: Say) -> Heldout:
    if asked.teacher is not None:
        return heldout(sums, _untrained(asked, sums, say), seed=asked.seed)
    return Heldout(
        documents=len(sums),
        tokens=sums.tokens,
        bytes=sums.bytes,
        trained=sums.teacher(asked.seed),
    )


def _fidelity(asked: Examination, read: Texts, say: Say) -> Fidelity:
    """Sums over the text; a model without a teacher is its own, and follows it perfectly."""
    say(f"measuring {asked.model.name} on the text")
    model, teacher = _trunks(asked)
    return measure(model, teacher or model, read, asked.model.tokenizer, autocast=asked.autocast)


def _trunks(asked: Examination) -> tuple[Trunk, Trunk | None]:
    """Model and teacher, cut at their heads and proved to have lost nothing by it."""
    model, packed = asked.model.model, asked.reading.packing
    if asked.teacher is None:
        trunk = split_head(model, real_vocabulary(asked.model.tokenizer), packed)
        prove(trunk)
        return trunk, None
    teacher = asked.teacher.model
    vocabulary, _ = shared_vocabulary(asked.teacher.tokenizer, head_rows(teacher), head_rows(model))
    ours, theirs = (split_head(each, vocabulary, packed) for each in (model, teacher))
    for trunk in (ours, theirs):
        prove(trunk)
    return ours, theirs


def _rollouts(asked: Examination, read: Texts, sums: Fidelity, say: Say) -> Rollouts | None:
    if asked.teacher is None or not asked.rollouts or not can_be_continued(sums, say):
        return None
    say(f"measuring {asked.model.name} on what it writes itself")
    model, teacher = _trunks(asked)
    return rollouts(
        model,
        teacher or model,
        asked.model.tokenizer,
        read,
        documents=asked.rollouts,
        prompt_tokens=PROMPT_TOKENS,
        new_tokens=asked.rollout_tokens,
        seed=asked.seed,
        autocast=asked.autocast,
    ).results(asked.seed)


def _untrained(asked: Examination, trained: Fidelity, say: Say) -> Fidelity | None:
    """What a run measured before its first step, if it was on the same documents."""
    file = asked.run / "untrained.npy" if asked.run else None
    if file is None or not file.exists():
        return None
    try:
        known = Fidelity.load(file)
    except Damaged as damage:
        say(str(damage))
        return None
    same = list(known.documents["key"]) == list(trained.documents["key"])
    return known if same else None


def _speed(asked: Examination, say: Say) -> Speed | None:
    if not asked.speed_seconds:
        return None
    model, teacher = asked.model.model, asked.teacher.model if asked.teacher else None
    say("timing the model" if teacher is None else "timing teacher and student in turns")
    if teacher is None:
        timed = _without_teacher(_timed(asked, model, model))
    else:
        torch.nn.Module.to(model, teacher.dtype)  # rates are compared in one type
        timed = _timed(asked, teacher, model)
    return _with_memory(timed, asked)


def _with_memory(timed: Speed, asked: Examination) -> Speed:
    """With what each model takes alone, in the type that it was timed in."""
    memory, left_out = dict[str, float](), list(timed.left_out)
    of = {"student": asked.model} | ({"teacher": asked.teacher} if asked.teacher else {})
    for name, candidate in of.items():
        dtype = (asked.teacher or asked.model).source.dtype
        source = candidate.source.model_copy(update={"dtype": dtype})
        found, reasons = footprints({name: source}, {name: candidate.model}, candidate.folder)
        memory |= found
        left_out += reasons
    return timed.model_copy(update={"memory_gib": memory, "left_out": tuple(left_out)})


def _timed(asked: Examination, teacher: PreTrainedModel, student: PreTrainedModel) -> Speed:
    return speed(
        teacher,
        student,
        seconds=asked.speed_seconds,
        seed=asked.seed,
        batch_sizes=asked.batch_sizes,
    )


def _without_teacher(timed: Speed) -> Speed:
    nobody: dict[str, Any] = {"teacher": None, "speedup": {}}
    batches = tuple(each.model_copy(update=nobody) for each in timed.batches)
    return timed.model_copy(update={**nobody, "batches": batches})
