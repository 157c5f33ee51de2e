"""Corpus: which tokens documents need, told from documents that are tokenised already."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jinja2 import Environment
from numpy import ndarray
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from nexus.pruning.vocabulary import HowMany, Vocabulary, smaller_vocabulary

Ids = Sequence[int] | ndarray


@dataclass(frozen=True)
class Texts:
    """Documents as text again, as often as they are asked for; special tokens are spelt out."""

    tokenizer: PreTrainedTokenizerFast
    documents: Iterable[Ids]

    def __iter__(self) -> Iterator[str]:
        backend = self.tokenizer.backend_tokenizer
        for ids in self.documents:
            yield backend.decode(list(map(int, ids)), skip_special_tokens=False)


def vocabulary_of(
    tokenizer: PreTrainedTokenizerBase,
    documents: Iterable[Ids],
    size: HowMany,
    *,
    named: Collection[int] = (),
    heldout: Iterable[Ids] = (),
    multiple: int = 1,
) -> Vocabulary:
    """A smaller vocabulary for documents, and for what a chat template puts around messages.

    Args:
        tokenizer: which the documents were tokenised with.
        documents: their ids; read twice.
        size: how many tokens, or all that are used.
        named: further ids that stay.
        heldout: ids of other documents, on which is measured what it costs.
        multiple: of which the tokens used become a multiple.

    Raises:
        UsageError: It is no byte-pair tokenizer, or cannot have this size; the nearest is named.
        NexusError: A proof failed.
    """
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        return smaller_vocabulary(tokenizer, (), size)  # which says why not
    counts: Counter[int] = Counter()
    for ids in documents:
        counts.update(np.asarray(ids).tolist())
    for text in spoken(tokenizer):
        counts.update(tokenizer.encode(text, add_special_tokens=False))
    return smaller_vocabulary(
        tokenizer,
        Texts(tokenizer, documents),
        size,
        counts=counts,
        named=named,
        heldout=Texts(tokenizer, heldout),
        multiple=multiple,
    )


def spoken(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The words that a tokenizer's chat templates put around messages themselves."""
    templates = tokenizer.chat_template or ""
    whole = templates.values() if isinstance(templates, dict) else [templates]
    found: list[str] = []
    for template in whole:
        for _, kind, value in Environment().lex(template):
            if kind == "data":
                found.append(value)
            elif kind == "string":
                found.append(value[1:-1].replace("\\n", "\n"))
    return [text for text in dict.fromkeys(found) if text]
