"""What is kept of a step whose numbers are not finite: its rows, what they gave, where they are."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from nexus import durable
from nexus.batch import Batch
from nexus.redaction import redacted
from nexus.training.module import StepLosses
from nexus.training.parallel import Parallel

KEPT = 5
"""Bad batches kept of a stage: those of its last bad steps."""

SHOWN = 3
"""Places named in a message; all of them are in the file."""


@dataclass(frozen=True)
class Passed:
    """A batch that went through teacher and student."""

    losses: StepLosses
    teacher: Tensor
    """The largest value of the teacher's answer by size: NaN or infinite if it is unusable."""


@dataclass(frozen=True)
class Evidence:
    """Where the numbers of a bad step stopped being finite."""

    terms: tuple[str, ...]
    """The first in the chain that are not: teacher, terms, gradient. `output is nan`."""
    places: tuple[str, ...]
    """Where this process's bad rows were read from; none if no row alone is to blame."""
    file: str
    """The saved rows; empty if another process has the bad ones."""

    def __str__(self) -> str:
        said = ", ".join(self.terms)
        if self.places:
            more = len(self.places) - SHOWN
            said += f" in rows with {', '.join(self.places[:SHOWN])}"
            said += f" and {more} more" if more > 0 else ""
        return f"{said} (see {self.file or 'the files of another process'})"


def bad_terms(values: Mapping[str, Any]) -> tuple[str, ...]:
    """Which numbers of a step are not finite: those of the teacher, else of the terms, else all.

    The same on all processes, for the numbers are sums over all of them.
    """
    told = {name: value for name, value in values.items() if name == "teacher"}
    for part in (told, values["terms"], values):
        bad = [
            f"{name} is {value}"
            for name, value in part.items()
            if isinstance(value, float) and not math.isfinite(value)
        ]
        if bad:
            return tuple(bad)
    return ()


def keep(
    folder: Path,
    stage: str,
    step: int,
    group: Sequence[Batch],
    values: Mapping[str, Any],
    through: Callable[[Batch], Passed],
    parallel: Parallel,
) -> Evidence:
    """Save the step's rows on this process, with what each of them gives alone.

    Args:
        folder: the run directory.
        stage: the stage's name.
        step: the step, from 1.
        group: this process's micro-batches.
        values: what the step came to over all processes.
        through: sends a batch through teacher and student; every process asks as many times.
        parallel: which process this is.
    """
    rows = [batch.rows(at, at + 1) for batch in group for at in range(len(batch.input_ids))]
    devices = [parallel.device] if parallel.device.type == "cuda" else []
    # Noise is drawn from a copy of the state, and nothing is compiled for the shape of one row.
    with (
        torch.random.fork_rng(devices),
        torch.no_grad(),
        torch.compiler.set_stance("force_eager"),
    ):
        numbers = [_numbers(through(row)) for row in rows]
    bad = [not all(map(math.isfinite, each.values())) for each in numbers]
    terms = bad_terms(values)
    elsewhere = parallel.any(any(bad)) and not any(bad)
    places = [place for row, wrong in zip(rows, bad, strict=True) if wrong for place in _of(row)]
    evidence = Evidence(
        terms,
        tuple(dict.fromkeys(places)),
        "" if elsewhere else f"{_name(stage, f'{step:06d}', parallel)}.safetensors",
    )
    if not elsewhere:
        account = {
            "stage": stage,
            "step": step,
            "rank": parallel.rank,
            "why": terms,
            "rows": [
                {"finite": not wrong, **strict(each), "places": _of(row), "keys": _keys(row)}
                for row, wrong, each in zip(rows, bad, numbers, strict=True)
            ],
        }
        text = json.dumps(account, indent=1, ensure_ascii=False, allow_nan=False)
        durable.write(folder / evidence.file, save(_tensors(rows)))
        durable.write((folder / evidence.file).with_suffix(".json"), redacted(text) + "\n")
        _drop_older(folder, stage, parallel)
    return evidence


def strict(values: Mapping[str, Any]) -> dict[str, Any]:
    """`values` as JSON can hold them: "nan", "inf" and "-inf" stand for what is no JSON number."""
    return {name: _strict(value) for name, value in values.items()}


def _strict(value: Any) -> Any:
    if isinstance(value, Mapping):
        return strict(value)
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _numbers(passed: Passed) -> dict[str, float]:
    named = {**passed.losses.terms, "teacher": passed.teacher}
    values = torch.stack([value.detach().float() for value in named.values()]).tolist()
    return dict(zip(named, values, strict=True))


def _tensors(rows: Sequence[Batch]) -> dict[str, Tensor]:
    names = ("input_ids", "targets", "position_ids", "documents", "parts", "tasks")
    return {name: torch.cat([getattr(row, name) for row in rows]).cpu() for name in names}


def _of(row: Batch) -> tuple[str, ...]:
    """Where the row's documents were read from, as far as that is known."""
    return row.places[0] if row.places else ()


def _keys(row: Batch) -> tuple[str, ...]:
    return row.keys[0] if row.keys else ()


def _name(stage: str, number: str, parallel: Parallel) -> str:
    return f"bad-batch-{stage}-{number}" + ("" if parallel.is_main else f"-rank{parallel.rank}")


def _drop_older(folder: Path, stage: str, parallel: Parallel) -> None:
    """Each process its own, by the number of the step."""
    pattern = _name(stage, "[0-9]" * 6, parallel)
    for kind in ("safetensors", "json"):
        for old in sorted(folder.glob(f"{pattern}.{kind}"))[:-KEPT]:
            old.unlink()
