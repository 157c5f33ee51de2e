"""environment.json: what a run ran on and with, so that it can be told apart and repeated."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import torch

from nexus import __version__
from nexus.data.loader import Batches
from nexus.launch import MARK
from nexus.training.parallel import Parallel

PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "datasets", "numpy", "pydantic")


def describe(
    parallel: Parallel,
    seed: int,
    fingerprints: Mapping[str, str],
    batches: Batches,
    notices: Sequence[str],
    changes: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Versions, hardware, seed and fingerprints, what the data came to, and notices."""
    return {
        **libraries(),
        "hardware": hardware(parallel),
        "seed": seed,
        "fingerprints": dict(fingerprints),
        "changes": list(changes),
        "data": data_summary(batches),
        "notices": list(notices),
    }


def libraries() -> dict[str, Any]:
    return {
        "nexus": __version__,
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
    }


def hardware(parallel: Parallel) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "processes": parallel.world,
        "memory settings": os.environ.get(MARK, "as the system has them"),
    }
    if parallel.device.type == "cuda":
        facts["accelerator"] = torch.cuda.get_device_name(parallel.device)
    return facts


def data_summary(batches: Batches) -> dict[str, Any]:
    summary = batches.summary
    sources: dict[str, Any] = {}
    for split, given in (("train", summary.train), ("heldout", summary.heldout)):
        for source in given:
            facts = asdict(source)
            name = f"{split}: {facts.pop('source')}"
            name += f" ({len(sources)})" if name in sources else ""
            facts["skipped_rows"] = [f"{row.place}: {row.reason}" for row in source.skipped_rows]
            sources[name] = facts
    return {
        **sources,
        "total": {
            "training tokens": summary.train_tokens,
            "held-out tokens": summary.heldout_tokens,
            "training rows": summary.rows,
            "share of positions used": round(summary.packing_efficiency, 4),
            "held-out documents also trained on": summary.contaminated,
        },
    }
