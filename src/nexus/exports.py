"""Models in formats of other runtimes, which read and write faster on a CPU than PyTorch does.

Conversion is that of transformers' own exporter, rounding that of NNCF and of ONNX Runtime. One
graph both reads a prompt and continues it.
"""

from __future__ import annotations

import json
import logging
import math
import os
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from nexus import durable, onnx_runtime, openvino_runtime
from nexus.candidates import candidate
from nexus.data.texts import Texts, texts
from nexus.errors import NexusError, UsageError
from nexus.evaluation.runtime import beside
from nexus.examination import SEQUENCE_LENGTH
from nexus.examination import source as text_source
from nexus.hub import load_model
from nexus.quantization.quantize import refuse_quantized
from nexus.voice import Say
from nexus.window import context_limit

FORMATS = ("openvino", "onnx")
BITS = (16, 8, 4)
GROUP = 64
"""Neighbours along a row that share a scale."""
FACTS = "export.json"
TOLERANCE = 0.02
"""How far logits at 16 bits may lie from the model's own, as a share of the largest of them."""

_RUNTIMES = {"openvino": openvino_runtime, "onnx": onnx_runtime}
_PROBE, _PROBE_ROWS = 8, 2


def export(
    model: str | Path,
    out: Path,
    *,
    to: str = "openvino",
    bits: int = 8,
    group_size: int | None = None,
    heldout: Sequence[str] = (),
    seconds: float = 10.0,
    say: Say = lambda text: None,
) -> dict[str, Any]:
    """Write a folder that another runtime runs: the graph, the tokenizer, and export.json.

    Sixteen bits halve what float32 takes; the other two are for weights only, and the embedding
    and the head are rounded to eight where the rest has four. What is written is loaded again and
    must answer as the model does, closely at 16 bits and finitely below. Then it is measured as it
    will run: KL and agreement beside the model, and how fast both write.

    Args:
        model: a folder, a name on the hub or a GGUF file.
        out: where to; must be empty or not exist.
        to: the format, openvino or onnx.
        bits: 16, 8 or 4.
        group_size: how many neighbours along a row share a scale, where they do: at four bits, and
            at eight for ONNX Runtime.
        heldout: files of text to compare on; unless given, the model writes some itself.
        seconds: how long both are timed.
        say: told in a sentence what begins.

    Returns:
        What export.json says: layers by bits, bytes, how far logits lie from the model's, KL and
        agreement with the model, and tokens a second of both.

    Raises:
        UsageError: for anything that the user can put right, in one line.
        NexusError: what was written does not answer as the model does.
    """
    _refuse(out, to, bits, group_size)
    source = candidate(str(model), "float32")
    tokenizer = source.tokenizer
    say(f"loading {model}")
    loaded = load_model(source.source, source.folder)  # here: an accelerator has nothing to do
    loaded.requires_grad_(False)
    cast(Any, loaded).eval()
    refuse_quantized(loaded)
    if bits == 4 and to == "openvino":
        _refuse_group(loaded, group_size or GROUP)
    read = _heldout(heldout, tokenizer, loaded) if heldout else None
    begin = time.perf_counter()
    say(f"converting to {_RUNTIMES[to].NAME}, which takes minutes for a large model")
    with _untold():
        exported = _RUNTIMES[to].convert(*_decoding(loaded), bits, group_size or GROUP)
    out.parent.mkdir(parents=True, exist_ok=True)
    with durable.directory(out) as aside:
        exported.save_pretrained(aside)
        tokenizer.save_pretrained(aside)
        say("reading it again, and measuring it beside the model")
        facts = {
            "model": str(model),
            "format": to,
            "bits": bits,
            "group_size": (group_size or GROUP) if bits in _RUNTIMES[to].GROUPED else None,
            **_RUNTIMES[to].layers(exported.program, bits, loaded, _probe(loaded)),
            "bytes": sum(file.stat().st_size for file in aside.iterdir()),
            "largest_difference": _checked(loaded, Exported(aside, exact=True), bits),
            "seconds": round(time.perf_counter() - begin, 1),
            **beside(loaded, Exported(aside, torch.get_num_threads()), read, seconds=seconds),
        }
        (aside / FACTS).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    return facts


def _heldout(
    paths: Sequence[str], tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel
) -> Texts:
    """Documents, cut to what the model reads."""
    length = min(SEQUENCE_LENGTH, context_limit(model.config) or SEQUENCE_LENGTH)
    sources = [text_source(path) for path in paths]
    return texts(sources, tokenizer, Path(), length=length, packing=False)


class Exported:
    """An exported model, ready to read and write. It remembers what it read until `forget`.

    Args:
        folder: what `export` wrote.
        threads: how many the runtime may use; as many as it likes unless given.
        exact: compute in float32. Otherwise the runtime takes bfloat16 where the CPU has
            instructions for it, and may round what enters a layer of few bits. OpenVINO on a
            single thread of a processor with AMX computes in float32, too.
    """

    def __init__(self, folder: Path, threads: int | None = None, exact: bool = False) -> None:
        to = next((to for to, of in _RUNTIMES.items() if (folder / of.FILE).is_file()), None)
        _require_installed(to or FORMATS[0])
        if to is None:
            files = " and ".join(of.FILE for of in _RUNTIMES.values())
            raise UsageError(
                f"{folder} is no exported model: it lacks {files}. "
                "Write one with nexus export MODEL --out DIR"
            )
        self._session = _RUNTIMES[to].Session(folder, threads, exact)
        self._read = 0

    def forget(self) -> None:
        """Begin a new text."""
        self._session.forget()
        self._read = 0

    def read(self, ids: Int[Tensor, "batch new"]) -> Float[Tensor, "batch new vocabulary"]:
        """Logits after each of these tokens, which follow all that was read since `forget`.

        All rows are equally long: there is no padding.
        """
        rows, new = ids.shape
        known = {
            "input_ids": ids.numpy(),
            "attention_mask": np.ones((rows, self._read + new), dtype=np.int64),
            "position_ids": np.tile(np.arange(self._read, self._read + new), (rows, 1)),
            "cache_position": np.arange(self._read, self._read + new),
            "beam_idx": np.arange(rows, dtype=np.int32),
        }
        logits = self._session.run(known)
        self._read += new
        return torch.from_numpy(logits)

    def generate(
        self, ids: Int[Tensor, "batch prompt"], new_tokens: int
    ) -> Int[Tensor, "batch new"]:
        """The likeliest token, again and again."""
        self.forget()
        written = [self.read(ids)[:, -1:].argmax(-1)]
        while len(written) < new_tokens:
            written.append(self.read(written[-1])[:, -1:].argmax(-1))
        return torch.cat(written, dim=1)


def _refuse(out: Path, to: str, bits: int, group_size: int | None) -> None:
    if to not in FORMATS:
        raise UsageError(f"--to is {to}: choose {', '.join(FORMATS)}")
    if bits not in BITS:
        raise UsageError(f"--bits is {bits}: choose {', '.join(map(str, BITS))}")
    grouped, groups = _RUNTIMES[to].GROUPED, _RUNTIMES[to].GROUPS
    if group_size is not None and bits not in grouped:
        raise UsageError(
            f"--group-size goes with --bits {' or '.join(map(str, grouped))}, "
            f"and --bits is {bits}: leave it out"
        )
    if group_size is not None and (group_size < 1 or group_size not in (groups or (group_size,))):
        *most, last = groups or (32, 64, 128)
        raise UsageError(
            f"--group-size is {group_size}: choose {', '.join(map(str, most))} or {last}"
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"--out {out} is there and not empty. Choose another directory")
    _require_installed(to)


def _refuse_group(model: PreTrainedModel, group_size: int) -> None:
    head = cast(Any, model).get_output_embeddings()
    lengths = {
        layer.in_features
        for layer in model.modules()
        if isinstance(layer, nn.Linear) and layer is not head
    }
    if lengths and all(length % group_size for length in lengths):
        raise UsageError(
            f"--group-size is {group_size}, and the layers' rows are "
            f"{', '.join(map(str, sorted(lengths)))} long: choose a divisor, "
            f"{math.gcd(*lengths)} at most for all of them"
        )


def _require_installed(to: str) -> None:
    missing = [name for name in _RUNTIMES[to].NEEDED if find_spec(name) is None]
    if missing:
        raise UsageError(
            f"{_RUNTIMES[to].NAME} exports need {' and '.join(missing)}: "
            f"pip install 'nexus-distillation[{to}]'"
        )


def _decoding(model: PreTrainedModel) -> tuple[nn.Module, dict[str, Any]]:
    """What reads any number of tokens after any number of others, and what to trace it with."""
    ids = _probe(model)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    parting = import_module("transformers.exporters.utils").decompose_for_generation
    found: tuple[nn.Module, dict[str, Any]] = parting(model, inputs, multi_token_decode=True)[
        "decode"
    ]
    return found


def _probe(model: PreTrainedModel) -> Int[Tensor, "rows tokens"]:
    generator = torch.Generator().manual_seed(0)
    size = model.config.get_text_config().vocab_size
    return torch.randint(size, (_PROBE_ROWS, _PROBE), generator=generator)


def _checked(model: PreTrainedModel, exported: Exported, bits: int) -> float:
    """How far logits lie from the model's own, whole text at once and in two parts.

    Raises:
        NexusError: they are not finite, or too far away where nothing was rounded.
    """
    ids = _probe(model)
    with torch.no_grad():
        own = model(input_ids=ids).logits.float()
    exported.forget()
    whole = exported.read(ids).float()
    exported.forget()
    parts = torch.cat(
        [exported.read(some).float() for some in torch.split(ids, _PROBE // 2, dim=1)], 1
    )
    away = max(float((own - found).abs().max()) for found in (whole, parts))
    bound = TOLERANCE * float(own.abs().max())
    if not away < float("inf") or (bits == 16 and away > bound):
        raise NexusError(
            f"the exported model's logits lie {away:.3g} from the model's own, and {bound:.3g} is "
            "the most. Nothing was written; please report the model's architecture"
        )
    return away


@contextmanager
def _untold() -> Iterator[None]:
    """Neither words about tested versions nor messages to the makers of the libraries, and how far
    they are not where results go.

    Both OpenVINO's converter and NNCF report uses to their makers, except where CI is set.
    """
    before, level = os.environ.get("CI"), logging.root.manager.disable
    os.environ["CI"] = "true"
    logging.disable(logging.WARNING)  # of any logger: some are called by the path of a file
    try:
        with warnings.catch_warnings(), redirect_stdout(sys.stderr):
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        logging.disable(level)
        if before is None:
            del os.environ["CI"]
        else:
            os.environ["CI"] = before
