"""Fidelity on text that the student itself wrote, and how much worse that is than on real text."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from nexus.batch import IGNORED, PADDING, Batch
from nexus.errors import NexusError
from nexus.evaluation.fidelity import Fidelity, measure
from nexus.evaluation.greedy import plain_settings
from nexus.evaluation.heldout import MEASURES
from nexus.evaluation.mode import observing
from nexus.evaluation.retention import difference
from nexus.kernels.lm_head import Trunk
from nexus.results import Rollouts
from nexus.teachers.teacher import Teacher

ROWS = 8
"""Documents that are continued at once."""


@dataclass(frozen=True)
class Exposure:
    """Two continuations of the same beginnings, paired by document."""

    own: Fidelity
    """On what the student wrote."""
    text: Fidelity
    """On what the documents themselves say there."""

    def results(self, seed: int = 0) -> Rollouts:
        """What `evaluation.json` says of them."""
        return Rollouts(
            documents=len(self.own),
            tokens=self.own.tokens,
            trained=self.own.student(seed),
            exposure_gap={
                name.removeprefix("student_"): difference(
                    self.own.per_token(name), self.text.per_token(name), unit=unit, seed=seed
                )
                for name, unit in MEASURES.items()
            },
        )


@dataclass(frozen=True)
class _Beginning:
    key: str
    prompt: tuple[int, ...]
    rest: tuple[int, ...]


def rollouts(
    student: Trunk,
    teacher: Teacher | Trunk,
    tokenizer: PreTrainedTokenizerBase,
    batches: Iterable[Batch],
    *,
    documents: int = 32,
    prompt_tokens: int = 32,
    new_tokens: int = 64,
    seed: int = 0,
    autocast: torch.dtype | None = None,
) -> Exposure:
    """Let the student continue held-out documents, and measure it on what it wrote.

    Text is drawn at sampling temperature 1 from all of the student's distribution over real tokens.
    The noise of a document depends on its key and `seed` alone, so that its text is the same
    whichever documents are written beside it. A run calls it as

        rollouts(split_head(student, scene.vocabulary, scene.packed), scene.teacher,
                 scene.tokenizer, scene.batches.heldout(), seed=seed).results(seed)

    Args:
        student: the student's body and head; the model is a transformers one.
        teacher: as for `measure`.
        tokenizer: says which token ends a text, which is then the last target.
        batches: the held-out documents. Those too short for a beginning and one more are left out.
        documents: at most so many are continued, the first ones.
        prompt_tokens: how long a beginning is.
        new_tokens: how much is written at most, and how much of the document is compared with it.
        seed: of what is drawn.
        autocast: the type that the student's body computes in, writing and measured.

    Raises:
        NexusError: if no held-out document is long enough.
    """
    chosen = _beginnings(batches, documents, prompt_tokens, new_tokens)
    if not chosen:
        raise NexusError(
            f"No held-out document has more than {prompt_tokens} tokens, which is what the student "
            "is given to continue. Give longer documents in `data.heldout`."
        )
    end = tokenizer.eos_token_id
    written: list[tuple[_Beginning, Sequence[int]]] = []
    for start in range(0, len(chosen), ROWS):
        group = chosen[start : start + ROWS]
        own = _write(student, group, new_tokens, end, seed, autocast)
        written += zip(group, own, strict=True)
    said = [(one, one.rest) for one in chosen]
    found = (
        measure(student, teacher, _batches(pairs), tokenizer, autocast=autocast)
        for pairs in (written, said)
    )
    return Exposure(*found)


def _beginnings(
    batches: Iterable[Batch], documents: int, prompt_tokens: int, new_tokens: int
) -> list[_Beginning]:
    found: dict[str, _Beginning] = {}
    for batch in batches:
        for row in range(len(batch.input_ids)):
            owners = batch.documents[row]
            numbers = [n for n in dict.fromkeys(owners.tolist()) if n != PADDING]
            for number, key in zip(numbers, batch.keys[row], strict=True):
                if len(found) == documents:
                    return list(found.values())
                at = owners == number
                ids = batch.input_ids[row][at].tolist()
                if len(ids) > prompt_tokens and key not in found:
                    rest = ids[prompt_tokens : prompt_tokens + new_tokens]
                    found[key] = _Beginning(key, tuple(ids[:prompt_tokens]), tuple(rest))
    return list(found.values())


def _write(
    student: Trunk,
    group: Sequence[_Beginning],
    new_tokens: int,
    end: int | None,
    seed: int,
    autocast: torch.dtype | None,
) -> list[list[int]]:
    """What the student writes after each beginning, its end included if it came to one."""
    model = cast(PreTrainedModel, student.model)
    ids = torch.tensor([one.prompt for one in group], device=model.device)
    settings = GenerationConfig(  # type: ignore[no-untyped-call]
        do_sample=False,  # the noise is in the scores
        max_new_tokens=new_tokens,
        eos_token_id=end,
        pad_token_id=end if end is not None else 0,
        use_cache=True,
    )
    drawn = _Drawn([one.key for one in group], student.vocabulary, seed)
    enabled = autocast is not None
    with (
        observing(model),
        plain_settings(model),
        torch.autocast(model.device.type, dtype=autocast, enabled=enabled),
    ):
        output = cast(Any, model).generate(
            ids,
            attention_mask=torch.ones_like(ids),
            generation_config=settings,
            logits_processor=LogitsProcessorList([drawn]),
        )
    rows = cast(Tensor, output)[:, ids.shape[1] :].tolist()
    return [row[: row.index(end) + 1] if end in row else row for row in rows]


class _Drawn(LogitsProcessor):
    """Gumbel noise: the likeliest token of the noisy scores is drawn from their softmax."""

    def __init__(self, keys: Sequence[str], vocabulary: int, seed: int) -> None:
        self._vocabulary = vocabulary
        self._random = [np.random.default_rng(_number(seed, key)) for key in keys]

    def __call__(
        self, input_ids: Int[Tensor, "rows length"], scores: Float[Tensor, "rows padded"]
    ) -> Float[Tensor, "rows padded"]:
        noise = np.stack([random.gumbel(size=self._vocabulary) for random in self._random])
        drawn = torch.full_like(scores, -torch.inf, dtype=torch.float32)
        real = scores[:, : self._vocabulary].float()
        drawn[:, : self._vocabulary] = real + torch.from_numpy(noise).to(real)
        return drawn


def _number(seed: int, key: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}\n{key}".encode()).digest()[:8], "big")


def _batches(pairs: Sequence[tuple[_Beginning, Sequence[int]]]) -> Iterator[Batch]:
    """One document a row; what follows its beginning is what is measured."""
    for start in range(0, len(pairs), ROWS):
        group = pairs[start : start + ROWS]
        length = max(len(one.prompt) + len(rest) for one, rest in group)
        shape = (len(group), length)
        ids, nothing = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
        targets, owners = torch.full(shape, IGNORED), torch.full(shape, PADDING)
        positions = torch.zeros(shape, dtype=torch.long)
        for row, (one, rest) in enumerate(group):
            first, end = len(one.prompt), len(one.prompt) + len(rest)
            ids[row, :end] = torch.tensor([*one.prompt, *rest])
            targets[row, first - 1 : end - 1] = ids[row, first:end]
            owners[row, :end] = 0
            positions[row, :end] = torch.arange(end)
            positions[row, end:] = torch.arange(length - end)
        keys = tuple((one.key,) for one, _ in group)
        yield Batch(ids, targets, positions, owners, nothing, nothing, keys=keys)
