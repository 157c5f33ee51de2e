"""What another runtime makes of a model: how closely it follows it, and how fast it writes."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from nexus.batch import PADDING
from nexus.data.texts import Texts
from nexus.errors import NexusError, UsageError
from nexus.evaluation.bootstrap import Bootstrap
from nexus.evaluation.mode import observing
from nexus.evaluation.speed import fitting, in_turns, median, random_prompt, time_one
from nexus.pruning.own_text import own_text
from nexus.results import Estimate

TOKENS = 4_096
"""About how many are compared."""
OWN_TEXT = "written by the model itself"


class Reader(Protocol):
    """A model elsewhere, which remembers what it read."""

    def forget(self) -> None:
        """Begin a new text."""

    def read(self, ids: Int[Tensor, "batch new"]) -> Float[Tensor, "batch new vocabulary"]:
        """Logits after each of some more tokens."""


@dataclass(frozen=True)
class Followed:
    """How closely a runtime follows a model on some documents."""

    tokens: int
    kl: Estimate
    """KL(model ‖ runtime), in nats a token."""
    agreement: Estimate
    """Share of positions at which both have the same most likely token."""


@dataclass(frozen=True)
class Written:
    """Tokens a second of both, timed in turns; medians over rounds with quartiles."""

    model: Estimate
    runtime: Estimate
    speedup: Estimate
    """The runtime's over the model's within each round."""
    prompt_tokens: int
    new_tokens: int


def beside(
    model: PreTrainedModel, reader: Reader, read: Texts | None = None, *, seconds: float = 10.0
) -> dict[str, Any]:
    """Both measurements, for a record.

    Args:
        model: the model, on the CPU.
        reader: the same model elsewhere.
        read: held-out documents; unless given, the model writes some itself, if it can.
        seconds: how long both are timed.

    Raises:
        NexusError: The runtime's logits are not finite.
    """
    facts: dict[str, Any] = {"text": "none", "tokens": 0, "kl": None, "agreement": None}
    if (documents := _documents(model, read)) is not None:
        found = followed(model, reader, documents)
        facts = {
            "text": OWN_TEXT if read is None else read.fingerprint,
            "tokens": found.tokens,
            "kl": found.kl.model_dump(),
            "agreement": found.agreement.model_dump(),
        }
    timed = written(model, reader, seconds=seconds)
    decode = {name: getattr(timed, name).model_dump() for name in ("model", "runtime", "speedup")}
    lengths = {"prompt_tokens": timed.prompt_tokens, "new_tokens": timed.new_tokens}
    held = {"threads": torch.get_num_threads(), "model_dtype": str(model.dtype).split(".")[1]}
    return {**facts, "decode": {**decode, **lengths, **held}}


@torch.no_grad()
def followed(
    model: PreTrainedModel, reader: Reader, documents: Iterable[Sequence[int]], *, seed: int = 0
) -> Followed:
    """Compare both after every token of some documents; intervals are over documents.

    Args:
        model: the model, on the CPU.
        reader: the same model elsewhere.
        documents: token ids, each document no longer than the model reads.
        seed: of the resampling.

    Raises:
        NexusError: There is no document, or the runtime's logits are not finite.
    """
    sums = [_sums(model, reader, torch.tensor([list(ids)])) for ids in documents if len(ids)]
    if not sums:
        raise NexusError("there is no text to compare on: give a file that holds some")
    if not np.isfinite(sums).all():
        raise NexusError("what was exported gives logits that are not finite")
    bootstrap = Bootstrap.of(np.array(sums), seed=seed)
    return Followed(
        tokens=int(bootstrap.observed[0, 2]),
        kl=bootstrap.estimate(lambda total: total[:, 0] / total[:, 2], "nats"),
        agreement=bootstrap.estimate(lambda total: total[:, 1] / total[:, 2], "share"),
    )


def written(
    model: PreTrainedModel,
    reader: Reader,
    *,
    prompt_tokens: int = 128,
    new_tokens: int = 32,
    seconds: float = 10.0,
    seed: int = 0,
) -> Written:
    """Time both in turns, one text at once, greedily with a cache; at least one round.

    Prompt and continuation get shorter where the model's context is.
    """
    prompt_tokens, new_tokens = fitting([model], prompt_tokens, new_tokens)
    prompt = random_prompt([model], 1, prompt_tokens, seed)
    with observing(model):
        time_one(model, prompt, 1)
        _time(reader, prompt, 1)
        found = in_turns(
            {
                "model": lambda: time_one(model, prompt, new_tokens),
                "runtime": lambda: _time(reader, prompt, new_tokens),
            },
            seconds,
        )
    ours, theirs = (np.array(found[name])[:, 1] for name in ("model", "runtime"))
    return Written(
        model=median(new_tokens / ours, "tokens/s"),
        runtime=median(new_tokens / theirs, "tokens/s"),
        speedup=median(ours / theirs, "×"),
        prompt_tokens=prompt_tokens,
        new_tokens=new_tokens,
    )


def _documents(model: PreTrainedModel, read: Texts | None) -> Iterator[list[int]] | None:
    """The first tokens of a text, or what the model writes; nothing where it can write none."""
    if read is not None:
        return _beginning(ids.tolist() for ids in read.documents)
    try:
        batches = own_text(model, tokens=TOKENS)
    except UsageError:
        return None
    rows = (
        ids[documents != PADDING].tolist()
        for batch in batches
        for ids, documents in zip(batch.input_ids, batch.documents, strict=True)
    )
    return _beginning(rows)


def _beginning(documents: Iterable[list[int]]) -> Iterator[list[int]]:
    """As many documents as hold the tokens that are compared."""
    held = 0
    for ids in documents:
        if held >= TOKENS:
            return
        held += len(ids)
        yield ids


def _sums(
    model: PreTrainedModel, reader: Reader, ids: Int[Tensor, "1 tokens"]
) -> tuple[float, float, float]:
    """Of a document: KL, positions that agree, positions."""
    reader.forget()
    told = reader.read(ids).double().log_softmax(-1)
    with observing(model):
        own = model(input_ids=ids).logits.double().log_softmax(-1)
    kl = (own.exp() * (own - told)).sum(-1)
    agree = own.argmax(-1) == told.argmax(-1)
    return float(kl.sum()), float(agree.sum()), float(ids.numel())


def _time(reader: Reader, prompt: Int[Tensor, "1 prompt"], new_tokens: int) -> tuple[float, float]:
    """Seconds to read the prompt, as of `time_one`, and for `new_tokens` after the first."""
    reader.forget()
    start = time.perf_counter()
    token = reader.read(prompt)[:, -1:].argmax(-1)
    read = time.perf_counter()
    for _ in range(new_tokens):
        token = reader.read(token)[:, -1:].argmax(-1)
    return read - start, time.perf_counter() - read
