"""One of several processes of a run, started as torchrun starts them. See test_parallel.py.

RANK=0 WORLD_SIZE=2 MASTER_ADDR=… MASTER_PORT=… python one_rank.py FOLDER
"""

from __future__ import annotations

import contextlib
import json
import runpy
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import save_file

from nexus.errors import Interrupted, NexusError
from nexus.teachers.local import LocalTeacher
from nexus.training.fsdp import require_sharded
from nexus.training.loop import train
from nexus.training.parallel import Parallel, processes

scene = SimpleNamespace(**runpy.run_path(str(Path(__file__).parent / "scene.py")))

LENGTHS = [[24, 3, 17], [5, 8, 2], [2, 2, 2]]
"""Of the documents of each rank, for as many ranks as there are."""

MANY = [[24, 3, 17, 9, 2, 21, 5, 12], [5, 8, 2, 30, 7, 2, 18, 4]]

ARRANGEMENTS: dict[str, dict[str, Any]] = {
    "once": {"micro": 8},
    "in 2": {"micro": 4},
    "in 4": {"micro": 2},
    "in 8": {"micro": 1},
    "padded": {"micro": 3, "length": 47},
    "backwards": {"micro": 2, "backwards": True},
}

STUDENTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "tied": {"tied": True},
    "recomputed": {},
    "adapted": {},
}


def main(folder: Path, parallel: Parallel) -> None:
    """Leaves gradients behind, and what the first rank writes of runs in several parts."""
    torch.set_num_threads(1)
    flat = {
        f"{kind}/{name}": value
        for kind, gradient in gradients(parallel)
        for name, value in gradient.items()
    }
    flat["any"] = torch.tensor([parallel.any(parallel.rank == 1), parallel.any(False)])
    flat["total"] = parallel.total(torch.tensor([1.0, parallel.rank]))
    save_file(flat, folder / f"rank-{parallel.rank}.safetensors")
    facts = shares(parallel) | {"main alone": waits(parallel)}
    try:
        run(folder, parallel, stops=4 if parallel.rank == 1 else None)
    except Interrupted:
        facts["interrupted"] = True
    run(folder, parallel)
    for way, steps in (("spread", 5), ("plain", 6), ("spread", 7)):
        with contextlib.suppress(Interrupted):
            run(folder / "there and back", parallel, spread=way == "spread", until=steps)
    (folder / f"rank-{parallel.rank}.json").write_text(json.dumps(facts))


def gradients(parallel: Parallel) -> Any:
    """Each by its name."""
    yield "gradient", scene.step_gradient(own_rows(parallel.rank), parallel=parallel)
    yield "silent", scene.step_gradient(own_rows(2 * parallel.rank), parallel=parallel)
    for spread in (False, True):
        for name, arrangement in ARRANGEMENTS.items():
            rows = many_rows(parallel.rank, **arrangement)
            gradient = scene.step_gradient(rows, parallel=parallel, spread=spread)
            yield f"{'fsdp2' if spread else 'ddp'} {name}", gradient
    for name in STUDENTS:
        rows = many_rows(parallel.rank, micro=4)
        student = make_student(name)
        yield f"student {name}", scene.step_gradient(rows, student, parallel=parallel, spread=True)
    silent = own_rows(2 * parallel.rank)
    yield "fsdp2 silent", scene.step_gradient(silent, parallel=parallel, spread=True)


def make_student(name: str) -> Any:
    student = scene.make_model(2, 0, tied=name == "tied")
    if name == "recomputed":
        student.activation_checkpointing_enable({"use_reentrant": False})
    if name == "adapted":
        from peft import LoraConfig, get_peft_model

        config = LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False)
        torch.manual_seed(3)
        return get_peft_model(student, config)
    return student


def own_rows(rank: int) -> list[object]:
    """Three rows, unequal over the ranks; the last of all has no target anywhere."""
    documents = scene.make_documents(LENGTHS[rank], seed=rank)
    if rank == 2:
        documents = [scene.make_document(document.ids, [False] * 2) for document in documents]
    return scene.in_rows([[document] for document in documents], micro=2)  # type: ignore[no-any-return]


def many_rows(rank: int, *, micro: int, length: int = 32, backwards: bool = False) -> list[object]:
    documents = scene.make_documents(MANY[rank], seed=10 + rank)
    if backwards:
        documents.reverse()
    return scene.in_rows([[document] for document in documents], length, micro)  # type: ignore[no-any-return]


def shares(parallel: Parallel) -> dict[str, Any]:
    """What this process holds of a sharded student, and what is said of one that is not."""
    stage = make_stage(Path(), parallel)
    try:
        require_sharded(stage.module)
        refusal = ""
    except NexusError as error:
        refusal = str(error)
    before = values(stage.module.student)
    total = sum(p.numel() for p in stage.module.parameters())
    student, teacher = scene.spread_out(stage)
    whole = student.whole()
    first = teacher.whole_on(parallel)
    return {
        "refusal": refusal,
        "share": sum(p.to_local().numel() for p in stage.module.parameters()) / total,
        "before": before,
        "after": values(whole),
        "type": type(whole).__name__,
        "teacher": None if first is None else type(first).__name__,
    }


def values(model: torch.nn.Module) -> dict[str, float]:
    return {name: value.double().sum().item() for name, value in model.state_dict().items()}


def waits(parallel: Parallel) -> bool:
    """Also for work that is done before the other one asks."""
    for late in (0.0, 0.3):
        time.sleep(late * parallel.rank)
        with parallel.alone() as mine:
            time.sleep((0.3 - late) * mine)
    return mine


def run(
    folder: Path,
    parallel: Parallel,
    *,
    stops: int | None = None,
    until: int | None = None,
    spread: bool = False,
) -> None:
    """Eight steps, of which some are done already; one rank alone may be asked to stop."""
    stopping: Callable[[], bool] = scene.stop_after(stops) if stops else lambda: False
    stage = make_stage(folder, parallel)
    if until is not None:
        newest = max(path.name for path in (folder / "checkpoints/train").glob("step-*"))
        stopping = scene.stop_after(until - int(newest.removeprefix("step-")))
    if spread:
        scene.spread_out(stage)
    train(stage, parallel, stopping=stopping, quiet=True)


def make_stage(folder: Path, parallel: Parallel) -> Any:
    source = scene.Fresh(rank=parallel.rank, world=parallel.world, micro=1)
    teacher = LocalTeacher(scene.make_model(4, 1))
    # Other weights on every rank: those of the first are the ones that count.
    student = scene.make_model(2, seed=parallel.rank)
    return scene.make_stage(folder, student, teacher, source)


if __name__ == "__main__":
    with processes() as found:
        main(Path(sys.argv[1]), found)
