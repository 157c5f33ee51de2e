"""How much memory a model takes by itself: a process of its own loads it and writes some text."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from nexus import hub
from nexus.errors import NexusError
from nexus.evaluation.mode import observing
from nexus.memory import GIB, available_bytes, held_bytes

ROOM = 2.0
"""How many times its weights in fp32 must be free before a second copy of a model is loaded."""

_STATUS = Path("/proc/self/status")


def measure_memory(
    source: hub.ModelSource | Path,
    folder: Path = Path(),
    *,
    device: str = "cpu",
    batch: int = 1,
    prompt_tokens: int = 128,
    new_tokens: int = 32,
    seconds: float = 600.0,
) -> float:
    """The most GiB that loading a model alone and decoding with it takes.

    What Python and its libraries hold before it is loaded is not counted. On CUDA it is device
    memory, elsewhere resident memory.

    Args:
        source: the model, or the directory that it was saved in, which is then held as saved.
        folder: what a relative path is relative to.
        device: where it runs.
        batch: texts written at once; keys and values are kept for as many tokens as are there.
        prompt_tokens: tokens of each that are read.
        new_tokens: tokens of each that are written.
        seconds: when to give up.

    Raises:
        NexusError: the process ended without an answer.
    """
    if isinstance(source, Path):
        source = hub.ModelSource(model=str(source.resolve()), dtype="auto")
    asked = {
        "source": source.model_dump(mode="json", include=set(hub.ModelSource.model_fields)),
        "folder": str(folder.resolve()),
        "device": device,
        "batch": batch,
        "prompt_tokens": prompt_tokens,
        "new_tokens": new_tokens,
    }
    command = [sys.executable, "-m", "nexus.evaluation.footprint", json.dumps(asked)]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        raise NexusError(
            f"Measuring the memory of {source} alone took more than {seconds:g} s. Give it more "
            "time, or leave it out."
        ) from None
    if ended.returncode:
        said = ended.stderr.strip().splitlines() or [f"exit status {ended.returncode}"]
        raise NexusError(f"The memory of {source} alone was not measured: {said[-1]}")
    return float(ended.stdout.strip().splitlines()[-1])


def footprints(
    sources: Mapping[str, hub.ModelSource],
    models: Mapping[str, PreTrainedModel],
    folder: Path,
) -> tuple[dict[str, float], tuple[str, ...]]:
    """The memory of each model alone, and in a sentence each which were not measured, and why.

    A second copy of every model is loaded for it, one after the other; one that there is no room
    for is left out.

    Args:
        sources: where the models come from.
        models: the same in this process, for how big they are and where they lie.
        folder: what relative paths are relative to.
    """
    found: dict[str, float] = {}
    left_out: list[str] = []
    for name, source in sources.items():
        model = models[name]
        needed = ROOM * model.num_parameters() * max(4, model.dtype.itemsize)
        free = available_bytes(model.device)
        if needed > free:
            left_out.append(
                f"the memory of the {name} alone: a second copy may need {needed / GIB:.1f} GiB, "
                f"and {free / GIB:.1f} GiB is free"
            )
            continue
        try:
            device = model.device.type
            found[name] = round(measure_memory(source, folder, device=device), 3)
        except NexusError as error:
            left_out.append(str(error))
    return found, tuple(left_out)


def take(asked: dict[str, Any]) -> float:
    """What `measure_memory` asks of its process: GiB at the peak above those before loading."""
    device = torch.device(asked["device"])
    before = held_bytes(device)
    model = hub.load_model(hub.ModelSource(**asked["source"]), Path(asked["folder"]))
    torch.nn.Module.to(model, device)
    ids = torch.zeros(asked["batch"], asked["prompt_tokens"], dtype=torch.long, device=device)
    with observing(model):
        output = model(input_ids=ids, use_cache=True, logits_to_keep=1)
        for _ in range(asked["new_tokens"]):
            token = output.logits[:, -1:].argmax(-1)
            output = model(
                input_ids=token,
                past_key_values=output.past_key_values,
                use_cache=True,
                logits_to_keep=1,
            )
    return (_peak_bytes(device) - before) / GIB


def _peak_bytes(device: torch.device) -> int:
    """Of this process; what rusage says on Linux may be the peak of the process that started it."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if _STATUS.exists():
        line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    print(take(json.loads(sys.argv[1])))
