"""Whether there is anything to learn from the first rows, and when to stop among it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from transformers import PreTrainedTokenizerBase

from nexus.data.chat import Example
from nexus.data.control import ControlTokens
from nexus.data.corpus import Corpus
from nexus.data.faults import MOST_LISTED, printable
from nexus.data.mixture import Mixture
from nexus.errors import UsageError

BATCHES_CHECKED = 100


def refuse_untrainable(
    corpus: Corpus, mixture: Mixture, rows: int, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Looks through the first rows as they will be trained on; of streams, as far as they are read.

    A student that is never shown the end of an answer never stops. Pieces of split texts have no
    end and need none.

    Args:
        corpus: The data.
        mixture: Which row comes when.
        rows: How many of them to look at.
        tokenizer: The student's.

    Raises:
        UsageError: if a row has no target at all, or if answers and texts are trained on and none
            of them with the token that ends it.
    """
    special = ControlTokens(tokenizer).special_ids - {tokenizer.bos_token_id}
    stops = np.array(sorted(special | {tokenizer.eos_token_id} - {None}))
    empty: list[str] = []
    endless: list[str] = []
    ended = False
    for row in _rows(corpus, mixture, rows):
        if not sum(example.target_count for example in row):
            empty.append(_named(row))
        for example in row:
            said = example.ids[1:][example.is_target[1:]]
            if np.isin(said, stops).any():
                ended = True
            elif example.truncated or not example.is_text:
                endless.append(printable(example.place))
    if empty:
        raise UsageError(
            f"{len(empty)} of the first {rows} rows have no target, so nothing is learnt from "
            f"them: {'; '.join(empty[:MOST_LISTED])}. Correct these rows or leave them out."
        )
    if endless and not ended:
        raise UsageError(
            f"no end is ever trained in the first {rows} rows, so the student would never stop: "
            f"{', '.join(endless[:MOST_LISTED])}. Raise data.sequence_length if these are cut "
            "(data.over_long), or use a chat template that ends a turn with a special token."
        )


def _rows(corpus: Corpus, mixture: Mixture, rows: int) -> Iterator[list[Example]]:
    seen = set()
    for row in range(rows):
        task, number = mixture[row]
        member = corpus.train[task]
        if number < member.at_hand and (task, number) not in seen:
            seen.add((task, number))
            yield member[number]


def _named(row: list[Example]) -> str:
    return ", ".join(printable(example.place) for example in row) or "a row without documents"
