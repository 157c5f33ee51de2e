"""Seen: the first training rows as they will be trained on, looked at one by one."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from nexus.batch import IGNORED, PADDING, Batch
from nexus.data.control import ControlTokens
from nexus.redaction import redacted
from nexus.scene import Scene
from nexus.visible import visible

SHOWN_ROWS = 3
"""How many rows are shown, each by the beginning of its first document."""

SHOWN_TOKENS = 96

Piece = tuple[str, bool]
"""Some text of a document, and whether its tokens are targets."""


@dataclass
class Seen:
    """What the first rows hold. Documents are counted as often as they come."""

    rows: int = 0
    empty_rows: int = 0
    """Rows without any target."""
    tokens: int = 0
    targets: int = 0
    unknown: int = 0
    """Tokens that stand for text which the tokenizer has no tokens for."""
    ended: int = 0
    """Documents of which a token that ends a text or a turn is a target."""
    lengths: list[int] = field(default_factory=list)
    """Tokens of each document."""
    tasks: Counter[str] = field(default_factory=Counter)
    """Documents by task."""
    keys: Counter[str] = field(default_factory=Counter)
    first: list[list[Piece]] = field(default_factory=list)
    """The beginnings of the first documents, safe to be shown."""

    @property
    def documents(self) -> int:
        return len(self.lengths)

    @property
    def repeated(self) -> int:
        """Documents that are another one once more."""
        return self.documents - len(self.keys)


def look(scene: Scene, rows: int) -> Seen:
    """Look at the first rows of the first stage, at most one pass over the data.

    Args:
        scene: What the run has loaded.
        rows: How many at the most.
    """
    tokenizer = scene.tokenizer
    stops = _stops(tokenizer)
    seen = Seen()
    limit = min(rows, scene.batches.summary.rows or rows)
    for batch in scene.batches.beginning(limit * scene.recipe.data.sequence_length):
        for row in range(min(len(batch.input_ids), limit - seen.rows)):
            seen.rows += 1
            seen.empty_rows += not bool(batch.is_target[row].any())
            _look_at(seen, batch, row, tokenizer, stops)
    return seen


def pieces(
    ids: Int[Tensor, " n"], is_target: Bool[Tensor, " n"], tokenizer: PreTrainedTokenizerBase
) -> list[Piece]:
    """A document as runs of text that are targets or are not; nothing in it hides or steers.

    Where the whole holds a secret it is shown in one piece, without the secret.
    """
    edges = [0, *(is_target[1:] != is_target[:-1]).nonzero()[:, 0].add(1).tolist(), len(ids)]
    runs = [
        (_decoded(ids[start:stop], tokenizer), bool(is_target[start]))
        for start, stop in zip(edges[:-1], edges[1:], strict=True)
        if stop > start
    ]
    whole = "".join(text for text, _ in runs)
    if (safe := redacted(whole)) != whole:
        return [(visible(safe), any(flag for _, flag in runs))]
    return [(visible(text), flag) for text, flag in runs]


def _look_at(
    seen: Seen, batch: Batch, row: int, tokenizer: PreTrainedTokenizerBase, stops: Tensor
) -> None:
    numbers = batch.documents[row]
    present = [int(n) for n in torch.unique(numbers) if n != PADDING]
    keys = batch.keys[row] or tuple(map(str, present))
    for number, key in zip(present, keys, strict=True):
        here = numbers == number
        ids, targets = batch.input_ids[row][here], batch.targets[row][here]
        is_target = torch.zeros_like(here[here])
        is_target[1:] = targets[:-1] != IGNORED
        seen.tokens += len(ids)
        seen.targets += int(is_target.sum())
        if tokenizer.unk_token_id is not None:
            seen.unknown += int((ids == tokenizer.unk_token_id).sum())
        seen.ended += bool(torch.isin(ids[is_target], stops).any())
        seen.lengths.append(len(ids))
        seen.tasks[batch.task_names[int(batch.tasks[row][here][0])]] += 1
        seen.keys[key] += 1
        if number == present[0] and len(seen.first) < SHOWN_ROWS:
            cut = ids[:SHOWN_TOKENS], is_target[:SHOWN_TOKENS]
            seen.first.append(pieces(*cut, tokenizer))
            if len(ids) > SHOWN_TOKENS:
                seen.first[-1].append((" …", False))


def _stops(tokenizer: PreTrainedTokenizerBase) -> Int[Tensor, " n"]:
    special = ControlTokens(tokenizer).special_ids - {tokenizer.bos_token_id}
    return torch.tensor(sorted(special | {tokenizer.eos_token_id} - {None}), dtype=torch.long)


def _decoded(ids: Int[Tensor, " n"], tokenizer: PreTrainedTokenizerBase) -> str:
    return str(tokenizer.decode(ids.tolist(), clean_up_tokenization_spaces=False))
