"""nexus quantize: a checkpoint in few bits, with a record of what was done to which layer."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nexus import durable, fingerprint
from nexus.batch import PADDING, Batch
from nexus.calibration import TOKENS, calibrated
from nexus.candidates import Candidate, candidate
from nexus.data.texts import texts
from nexus.errors import UsageError
from nexus.examination import source as text_source
from nexus.hub import Dtype
from nexus.kernels.lm_head import can_be_packed
from nexus.quantization.quantize import plan, refuse_quantized
from nexus.quantization.scheme import scheme_of
from nexus.quantizing import save_quantized
from nexus.tokenizers import with_end
from nexus.voice import Say

SEQUENCE, ROWS = 512, 4
FEW = 1_000
"""Fewer tokens than this say little of what enters the layers."""


@dataclass(frozen=True)
class Few:
    """What a user asks for. Paths are relative to the working directory."""

    model: str
    out: Path
    bits: int | None = None
    scheme: str | None = None
    group_size: str | None = None
    symmetric: bool = True
    text: tuple[str, ...] = ()
    """Files of text that what enters the layers is measured on."""
    dtype: Dtype = "bfloat16"


def quantize_checkpoint(asked: Few, say: Say) -> dict[str, Any]:
    """Write the model in few bits, its tokenizer and quantization.json; returns what that says.

    Raises:
        UsageError: for anything that the user can put right, in one line.
        NexusError: what was saved is not what was loaded.
    """
    if asked.out.exists() and (not asked.out.is_dir() or any(asked.out.iterdir())):
        raise UsageError(f"--out {asked.out} is there and not empty. Choose another directory")
    scheme = scheme_of(asked.bits, asked.scheme, asked.group_size, asked.symmetric)
    source = candidate(asked.model, "auto", encoders=True)
    tokenizer = source.tokenizer
    say(f"loading {asked.model}")
    model = source.model
    refuse_quantized(model)
    plan(model, scheme)  # before text is read
    if not asked.text and scheme.bits < 8:
        say("no --text: every input of a layer counts alike. With text the error is smaller")
    say(f"rounding to {scheme}")
    begin = time.perf_counter()
    dtype = model.dtype if asked.dtype == "auto" else getattr(torch, asked.dtype)
    found = calibrated(model, scheme, _text(asked, source, say), dtype)
    facts = {
        "model": asked.model,
        "model_fingerprint": fingerprint.of_model(model),
        "calibrated": bool(asked.text) and scheme.bits < 8,
        "seconds": round(time.perf_counter() - begin, 1),
    }
    say(f"writing {asked.out}")
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    with durable.directory(asked.out) as aside:
        return save_quantized(found, tokenizer, aside, facts)


def _text(asked: Few, source: Candidate, say: Say) -> Iterator[Batch] | None:
    """The beginning of the text, if any is given."""
    if not asked.text:
        return None
    length = min(SEQUENCE, source.context_limit or SEQUENCE)
    read = texts(
        [text_source(path) for path in asked.text], with_end(source.tokenizer), Path(),
        length=length, rows=ROWS, packing=can_be_packed(source.model),
    )  # fmt: skip
    return _beginning(read, source.model.device, say)


def _beginning(batches: Any, device: torch.device, say: Say) -> Iterator[Batch]:
    tokens = 0
    for batch in batches:
        yield batch.to(device)
        tokens += int((batch.documents != PADDING).sum())
        if tokens >= TOKENS:
            return
    if tokens < FEW:
        say(f"--text holds {tokens:,} tokens: grids fit these alone. Give about {TOKENS:,}")
