"""Narrowed: a model with the tokens that its text needs, and the tokenizer that belongs to it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from nexus.proofs import Proof
from nexus.pruning.corpus import Ids, vocabulary_of
from nexus.pruning.narrow import narrow
from nexus.pruning.token_ids import named_ids
from nexus.pruning.vocabulary import HowMany, Vocabulary


@dataclass(frozen=True)
class Narrowed:
    """A model of fewer tokens. All but the rows of these is shared with the one it comes from."""

    model: PreTrainedModel
    vocabulary: Vocabulary
    findings: tuple[Proof, ...]
    """What was proved of tokenizer and model."""


def narrowed(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    documents: Iterable[Ids],
    size: HowMany,
    *,
    heldout: Iterable[Ids] = (),
    multiple: int = 1,
) -> Narrowed:
    """Take from a model all tokens but those that documents need.

    Args:
        model: which is left as it is.
        tokenizer: its own.
        documents: token ids; read twice.
        size: how many tokens, or all that are used.
        heldout: other documents, on which is measured how many more tokens they take.
        multiple: of which the tokens used become a multiple.

    Raises:
        UsageError: The tokenizer or the architecture cannot be cut, or not to this; the nearest
            size is named.
        NexusError: A proof failed.
    """
    named = named_ids(model.config)
    if model.can_generate():
        named |= named_ids(model.generation_config)
    vocabulary = vocabulary_of(
        tokenizer, documents, size, named=named, heldout=heldout, multiple=multiple
    )
    small = narrow(model, vocabulary.ids)
    return Narrowed(small.model, vocabulary, (*vocabulary.findings, *small.findings))
