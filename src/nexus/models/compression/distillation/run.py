"""distill: a whole run in one call, from models that are already in memory."""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from nexus.errors import UsageError
from nexus.fingerprint import of_model
from nexus.hub import ModelSource, load_model, quiet
from nexus.models.compression.distillation.fit import refuse_self
from nexus.pipeline import run
from nexus.recipe.schema import Recipe
from nexus.scene import Models

Rows = str | Path | Iterable[str | Mapping[str, Any]]
"""A JSONL file, or texts, or rows in any layout that a recipe's data may have."""


QUIET = {"dashboard": "none"}
MEASURED = {"speed_seconds": 5, "samples": 3}
UNMEASURED = {"speed_seconds": 0, "samples": 0}


def distill(
    teacher: PreTrainedModel | Sequence[PreTrainedModel | float | int],
    student: PreTrainedModel | None = None,
    data: Rows = (),
    T: float = 2.0,  # noqa: N803 the name the literature knows it by
    alpha: float = 0.5,
    *,
    steps: int = 100,
    heldout: Rows | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    output: str | Path | None = None,
    divergence: str = "forward_kl",
    sequence_length: int = 512,
    train: Mapping[str, Any] | None = None,
    evaluate: Mapping[str, Any] | None = None,
    fresh: bool = False,
    allow_changed: Collection[str] = (),
) -> PreTrainedModel:
    """Distil `teacher` into `student` and return the trained student.

    The same run as `nexus distill`: with `output` it leaves a run directory with report, model card
    and checkpoints behind, and the same call continues a run that was stopped.

        student = distill([teacher, 5e9, 3e9, 1.5e9], data=texts)

    becomes smaller step by step: each student is cut out of the one before, to so many parameters,
    and all learn from the teacher. Every size trains for `steps` steps.

    Args:
        teacher: a causal language model; frozen in place. Or a list: the teacher, then sizes.
        student: a causal language model with the same tokenizer; trained in place. None with sizes.
        data: what to train on.
        T: temperature. 2 is the specification's default; 1 measured best on language models.
        alpha: weight of cross-entropy on the text, beside 1 - alpha for distillation.
        steps: optimiser steps.
        heldout: what to evaluate on; without it the report says nothing of quality.
        tokenizer: of both; asked of the teacher's name or folder if absent.
        output: the run directory; a temporary one if absent.
        divergence: any that a recipe can name.
        sequence_length: tokens of a row. Longer texts are split.
        train: further keys of a recipe's `train`, for example {"learning_rate": 1e-4}.
        evaluate: keys of a recipe's `evaluate`; without `output` nothing is timed or continued.
        fresh: put an earlier run in `output` aside and begin anew, as --fresh does.
        allow_changed: what of a run that goes on may be another than before, as --allow-changed.

    Raises:
        UsageError: for whatever a recipe would be refused for.
    """
    if not 0 <= alpha <= 1:
        raise UsageError(f"alpha is {alpha}, but it is a weight between 0 and 1")
    teacher, sizes = told_apart(teacher, student)
    if student is not None:
        refuse_self([teacher], student)
    given = train or {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(output).parent.resolve() if output else Path(scratch)
        name = Path(output).name if output else "run"
        texts = folder / f"{name}.data"
        values = {
            "output": name,
            "teacher": {"model": _name_of(teacher)},
            "student": {"kind": "pretrained", "model": _name_of(student)} if student else None,
            "data": {
                "sources": [_source(data, texts, "train")],
                "heldout": [_source(heldout, texts, "heldout")] if heldout else [],
                "sequence_length": sequence_length,
                "over_long": "split",
            },
            "objectives": [
                {"kind": "task", "weight": alpha},
                {"kind": "output", "weight": 1 - alpha, "temperature": T, "divergence": divergence},
            ],
            "train": {"steps": steps, "tokens_per_step": 4 * sequence_length, **QUIET, **given},
            "evaluate": {**(MEASURED if output else UNMEASURED), **(evaluate or {})},
        }
        recipe = Recipe.parse(in_steps(values, sizes) if sizes else values, where="distill")
        models = Models(teacher, student, tokenizer or _tokenizer_of(teacher))
        how: Any = {"models": models, "fresh": fresh, "allow_changed": allow_changed, "say": _say}
        student_folder = run(recipe, folder, **how).student.resolve()
        return load_model(ModelSource(model=str(student_folder)), folder)


def told_apart(
    teacher: PreTrainedModel | Sequence[PreTrainedModel | float | int],
    student: PreTrainedModel | None,
) -> tuple[PreTrainedModel, tuple[float, ...]]:
    """The teacher, and the sizes to become smaller by, if there are any.

    Raises:
        UsageError: the list is no teacher with sizes, or there is neither a student nor sizes, or
            both.
    """
    first, *rest = teacher if isinstance(teacher, Sequence) else [teacher]
    sizes = tuple(float(size) for size in rest if isinstance(size, int | float))
    if not isinstance(first, PreTrainedModel) or len(sizes) < len(rest):
        raise UsageError(
            "a list given to distill is a teacher and then numbers of parameters, as in "
            "distill([teacher, 5e9, 3e9], data=texts): students that exist already are distilled "
            "one after another by distill(teacher, student, data)"
        )
    if bool(sizes) == (student is not None):
        raise UsageError(
            "distill needs either a student or sizes to cut the teacher to: pass student=, or "
            "[teacher, 5e9, 3e9] in place of the teacher"
        )
    return first, sizes


def in_steps(values: Mapping[str, Any], sizes: Sequence[float]) -> dict[str, Any]:
    """A recipe of one stage as one of a stage a size."""
    cuts = [{"kind": "pruned", "target_params": size} for size in sizes]
    shared = {key: values[key] for key in ("objectives", "train")}
    stages = [
        {"name": f"step{number}", **shared, **({"student": cut} if number > 1 else {})}
        for number, cut in enumerate(cuts, 1)
    ]
    rest = {key: value for key, value in values.items() if key not in shared}
    return {**rest, "student": cuts[0], "stages": stages}


def _name_of(model: PreTrainedModel) -> str:
    """Its name, or a hash of its weights: a run is not continued with other models unnoticed."""
    return model.name_or_path or f"in memory ({of_model(model)[:12]})"


def _source(rows: Rows, folder: Path, name: str) -> dict[str, str]:
    """A file as it is; rows in memory are written beside the run, so that it can be repeated.

    The file is named after what is in it: a run is not continued with other rows unnoticed.
    """
    if isinstance(rows, str | Path):
        return {"kind": "jsonl", "path": str(Path(rows).resolve())}
    text = b"".join(_line(row, f"{name}[{number}]") for number, row in enumerate(rows))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{hashlib.sha256(text).hexdigest()[:12]}.jsonl"
    path.write_bytes(text)
    return {"kind": "jsonl", "path": str(path)}


def _line(row: Any, place: str) -> bytes:
    try:
        values = {"text": row} if isinstance(row, str) else dict(row)
        return (json.dumps(values, ensure_ascii=False) + "\n").encode()
    except (TypeError, ValueError):
        raise UsageError(
            f"{place} is {str(row)[:80]!r} of type {type(row).__name__}. Give strings, or dicts of "
            "strings (whole Unicode) and lists in a layout that a recipe's data may have"
        ) from None


def _tokenizer_of(teacher: PreTrainedModel) -> PreTrainedTokenizerBase:
    try:
        with quiet():
            loaded: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(teacher.name_or_path)
    except (OSError, ValueError):
        raise UsageError(
            f"no tokenizer could be loaded from the teacher's name '{teacher.name_or_path}': "
            "pass tokenizer="
        ) from None
    return loaded


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
