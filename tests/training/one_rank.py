"""One of several processes of a run, started as torchrun starts them. See test_parallel.py.

RANK=0 WORLD_SIZE=2 MASTER_ADDR=… MASTER_PORT=… python one_rank.py FOLDER
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import torch
from safetensors.torch import save_file

from nexus.errors import Interrupted
from nexus.teachers.local import LocalTeacher
from nexus.training.loop import train
from nexus.training.parallel import Parallel, processes

scene = SimpleNamespace(**runpy.run_path(str(Path(__file__).parent / "scene.py")))

LENGTHS = [[24, 3, 17], [5, 8, 2], [2, 2, 2]]
"""Of the documents of each rank, for as many ranks as there are."""


def main(folder: Path, parallel: Parallel) -> None:
    """Leaves one gradient a rank behind, and what the first rank writes of a run in two parts."""
    torch.set_num_threads(1)
    facts = {
        "gradient": scene.step_gradient(own_rows(parallel.rank), parallel=parallel),
        "silent": scene.step_gradient(own_rows(2 * parallel.rank), parallel=parallel),
    }
    flat = {f"{kind}.{name}": value for kind, them in facts.items() for name, value in them.items()}
    flat["any"] = torch.tensor([parallel.any(parallel.rank == 1), parallel.any(False)])
    flat["total"] = parallel.total(torch.tensor([1.0, parallel.rank]))
    save_file(flat, folder / f"rank-{parallel.rank}.safetensors")
    try:
        run(folder, parallel, stops=parallel.rank == 1)
    except Interrupted:
        (folder / f"interrupted-{parallel.rank}").touch()
    run(folder, parallel, stops=False)


def own_rows(rank: int) -> list[object]:
    """Three rows, unequal over the ranks; the last of all has no target anywhere."""
    documents = scene.make_documents(LENGTHS[rank], seed=rank)
    if rank == 2:
        documents = [scene.make_document(document.ids, [False] * 2) for document in documents]
    return scene.in_rows([[document] for document in documents], micro=2)  # type: ignore[no-any-return]


def run(folder: Path, parallel: Parallel, *, stops: bool) -> None:
    """Eight steps; one rank alone is asked to stop, after the fourth."""
    stopping = scene.stop_after(4) if stops else lambda: False
    source = scene.Fresh(rank=parallel.rank, world=parallel.world, micro=1)
    teacher = LocalTeacher(scene.make_model(4, 1))
    # Other weights on every rank: those of the first are the ones that count.
    student = scene.make_model(2, seed=parallel.rank)
    stage = scene.make_stage(folder, student, teacher, source)
    train(stage, parallel, stopping=stopping, quiet=True)


if __name__ == "__main__":
    with processes() as found:
        main(Path(sys.argv[1]), found)
