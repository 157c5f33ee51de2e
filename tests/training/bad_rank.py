"""One of two processes, of which the second one alone gets rows that no teacher can bear.

RANK=0 WORLD_SIZE=2 MASTER_ADDR=… MASTER_PORT=… python bad_rank.py FOLDER. See test_evidence.py.
"""

from __future__ import annotations

import json
import math
import runpy
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from nexus.batch import Batch
from nexus.signals import Headed, Signal, Signals
from nexus.teachers.local import LocalTeacher
from nexus.training.guard import Diverged
from nexus.training.loop import train
from nexus.training.parallel import Parallel, processes

scene = SimpleNamespace(**runpy.run_path(str(Path(__file__).parent / "scene.py")))

UNBEARABLE = 60
BAD = {2, 5, 6, 7}
"""Steps, from 1."""


class Allergic(LocalTeacher):
    """Says NaN of every row with one token in it."""

    def signals(self, batch: Batch, wanted: Signal) -> Signals:
        told = super().signals(batch, wanted).distribution
        assert isinstance(told, Headed)
        there = (batch.input_ids == UNBEARABLE).any(1, keepdim=True).expand_as(batch.is_target)
        hidden = torch.where(there[batch.is_target][:, None], math.nan, told.hidden)
        return Signals(Headed(hidden, told.head))


@dataclass(frozen=True)
class Rows:
    """Two rows a process and step; the last one of the second process is bad at some steps."""

    rank: int

    def take(self, step: int) -> list[Batch]:
        documents = [
            scene.make_document(document.ids % UNBEARABLE, place=f"rank{self.rank}.jsonl:{number}")
            for number, document in enumerate(scene.make_documents([17, 17], step), 2 * step)
        ]
        if self.rank == 1 and step + 1 in BAD:
            documents[1].ids[3] = UNBEARABLE
        return scene.in_rows([[document] for document in documents], micro=1)  # type: ignore[no-any-return]


def note(into: list[tuple[int, str, str]], *what: Any) -> None:
    into.append(what)


def main(folder: Path, parallel: Parallel) -> None:
    torch.set_num_threads(1)
    for way in ("ddp", "fsdp2"):
        noticed: list[tuple[int, str, str]] = []
        told: dict[str, Any] = {"noticed": noticed}
        run = folder / way
        run.mkdir(exist_ok=True)
        student, teacher = scene.make_model(), Allergic(scene.make_model(4, 1))
        stage = scene.make_stage(run, student, teacher, Rows(parallel.rank))
        if way == "fsdp2":
            scene.spread_out(stage)
        try:
            train(stage, parallel, quiet=True, notice=partial(note, noticed))
        except Diverged as failure:
            told["failure"] = str(failure)
        (run / f"told-{parallel.rank}.json").write_text(json.dumps(told))


if __name__ == "__main__":
    with processes() as found:
        main(Path(sys.argv[1]), found)
