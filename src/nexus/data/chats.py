"""Whether there are conversations among the rows, before all of them are read."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from pathlib import Path

from nexus.data.faults import BadRow, Faults
from nexus.data.layouts import Chat, content
from nexus.data.sources import Row, Source

LOOKED_AT = 100
"""Rows of each source; a source that mixes layouts does so from its beginning."""


def has_chats(sources: Iterable[Source], folder: Path) -> bool:
    """Whether any of the first rows is a conversation, which a chat template will write.

    Args:
        sources: What is trained and evaluated on.
        folder: What relative paths are relative to.
    """
    return any(_is_chat(row.columns) for source in sources for row in _first(source, folder))


def _first(source: Source, folder: Path) -> Iterable[Row]:
    return islice(source.rows(folder, Faults("skip")), LOOKED_AT)


def _is_chat(columns: dict[str, object]) -> bool:
    try:
        return isinstance(content(columns), Chat)
    except BadRow:
        return False
