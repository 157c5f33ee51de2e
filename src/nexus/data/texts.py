"""Texts: documents to measure models on, where there is nothing to train on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from nexus.batch import Batch
from nexus.data.chat import Encoder, SpecialTokens
from nexus.data.corpus import Corpus, read
from nexus.data.documents import Documents
from nexus.data.faults import OnBadRow
from nexus.data.ingest import Ingest
from nexus.data.loader import collate
from nexus.data.packing import OverLong
from nexus.data.sources import Source
from nexus.errors import UsageError


@dataclass(frozen=True)
class Texts:
    """Held-out documents in their order, packed as a run packs its own."""

    corpus: Corpus
    length: int
    """Positions of a row."""
    rows: int
    """Rows that go through a model at once."""

    @property
    def fingerprint(self) -> str:
        """That of the documents as tokens, as they were cut: equal ones can be paired."""
        return self.corpus.digest.hex()

    @property
    def documents(self) -> Documents:
        """Their ids."""
        held = self.corpus.heldout
        return Documents(lambda: (held[row] for row in range(held.size)) if held else ())

    def __iter__(self) -> Iterator[Batch]:
        held = self.corpus.heldout
        numbers = range(held.size if held else 0)
        for start in numbers[:: self.rows]:
            group = [held[number] for number in numbers[start : start + self.rows]] if held else []
            # Nothing ever attends to padding, so that any token will do.
            yield collate(group, self.length, 0, self.corpus.task_names)


def texts(
    sources: Sequence[Source],
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    *,
    length: int,
    packing: bool = True,
    over_long: OverLong = "split",
    on_bad_row: OnBadRow = "error",
    special_tokens: SpecialTokens = "escape",
    rows: int = 1,
    context_limit: int | None = None,
) -> Texts:
    """Read and tokenise documents.

    Args:
        sources: where the documents are.
        tokenizer: the model's.
        folder: what relative paths are relative to.
        length: positions of a row, and the most tokens of a document.
        packing: whether rows hold several documents.
        over_long: what becomes of longer documents.
        on_bad_row: what becomes of rows that cannot be used.
        special_tokens: what becomes of text that spells special tokens.
        rows: how many of them go through a model at once.
        context_limit: the most positions that the models can take.

    Raises:
        UsageError: for whatever is wrong with the text, with its place and remedy.
    """
    if context_limit is not None and length > context_limit:
        raise UsageError(
            f"rows of {length} tokens are longer than the {context_limit} positions that the "
            f"models take. Set the sequence length to {context_limit} or less"
        )
    encoder = Encoder(tokenizer, special_tokens=special_tokens)
    ingests = [
        Ingest(
            source, encoder, folder, length=length, over_long=over_long, on_bad_row=on_bad_row,
            in_recipe=False,
        )
        for source in sources
    ]  # fmt: skip
    return Texts(read((), (), ingests, length=length, packing=packing), length, rows)
