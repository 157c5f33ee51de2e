"""environment.json: what a run ran on and with, so that it can be told apart and repeated."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from nexus import __version__
from nexus.data.loader import Batches
from nexus.launch import MARK
from nexus.tokenizers import PROBES
from nexus.training.parallel import Parallel

PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "datasets", "numpy", "pydantic")

SAMPLE = 4096
"""Numbers of each weight that its fingerprint is made of."""


def describe(
    parallel: Parallel,
    seed: int,
    teacher: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    batches: Batches,
    notices: Sequence[str],
) -> dict[str, Any]:
    """Versions, hardware, seed and fingerprints, what the data came to, and notices."""
    return {
        "nexus": __version__,
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
        "hardware": hardware(parallel),
        "seed": seed,
        "fingerprints": {
            "teacher": fingerprint(teacher),
            "tokenizer": tokenizer_fingerprint(tokenizer),
            "data": batches.fingerprint,
        },
        "data": data_summary(batches),
        "notices": list(notices),
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


def fingerprint(model: nn.Module) -> str:
    """Hash of names, shapes, types and evenly spaced numbers of all weights."""
    digest = hashlib.sha256()
    for name, weight in sorted(model.named_parameters()):
        flat = weight.detach().flatten()
        some = flat[:: max(1, len(flat) // SAMPLE)].float().cpu().contiguous()
        digest.update(f"{name} {tuple(weight.shape)} {weight.dtype}".encode())
        digest.update(some.numpy().tobytes())
    return digest.hexdigest()


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """Hash of the token map, of what becomes of the probe strings, and of the chat template."""
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    encoded = [tokenizer(text)["input_ids"] for text in PROBES]
    template = tokenizer.chat_template or ""
    return hashlib.sha256(f"{vocabulary}{encoded}{template}".encode()).hexdigest()


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
