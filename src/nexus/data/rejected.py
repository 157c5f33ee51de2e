"""rejected.jsonl: every row that was left out, with its place and the reason."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from nexus import durable
from nexus.disk import writing
from nexus.redaction import redacted

FILE_NAME = "rejected.jsonl"

MOST_CHARACTERS = 4_000
"""Of a row. More is cut, and the cut is said."""


class Rejected:
    """Writes one line of ASCII for each rejected row: `place`, `reason`, `row`, and `cut` if it is.

    `row` is the line as it stands in the file, or the columns as JSON; null where neither can be
    written. The file is whole or absent until `finish`, which also removes one that an earlier
    reading left if there is nothing to say any more. Afterwards, as rows of streams are read, lines
    are added to it one by one, each on disk before the next.

    Args:
        path: Where the file is to be.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._aside = durable.aside_of(path)
        self._file: IO[bytes] | None = None
        self._finished = False

    def add(self, place: str, reason: str, row: Any) -> None:
        text, cut = _written_out(row)
        values = {"place": place, "reason": reason, "row": text} | ({"cut": True} if cut else {})
        line = json.dumps(values).encode() + b"\n"
        with writing(self.path, len(line)):
            if not self._finished:
                self._file = self._file or self._aside.open("wb")
                self._file.write(line)
                return
            # In one call: whoever is killed leaves no half of a line.
            with self.path.open("ab", buffering=0) as file:
                file.write(line)
            durable.flush(self.path)

    def finish(self) -> None:
        """What was read up to now is all there is, streams aside."""
        if self._file is None:
            self.path.unlink(missing_ok=True)
        else:
            with writing(self.path):
                self._file.close()
                durable.flush(self._aside)
                self._aside.replace(self.path)
                durable.flush(self.path.parent)
        self._file, self._finished = None, True

    def abandon(self) -> None:
        """Leave nothing behind."""
        if self._file is not None:
            self._file.close()
        self._aside.unlink(missing_ok=True)


@contextmanager
def written(path: Path | None) -> Iterator[Rejected | None]:
    """Receives the rejected rows of the block. The file is there only if the block succeeds."""
    if path is None:
        yield None
        return
    rejected = Rejected(path)
    try:
        yield rejected
    except BaseException:
        rejected.abandon()
        raise
    rejected.finish()


def _written_out(row: Any) -> tuple[str | None, bool]:
    """The row as text, cut to `MOST_CHARACTERS`, and whether it was cut."""
    match row:
        case None:
            return None, False
        case bytes():
            text = row[: 4 * MOST_CHARACTERS + 1].decode("utf-8", errors="backslashreplace")
        case _:
            try:
                text = json.dumps(row, ensure_ascii=False, default=repr)
            except (TypeError, ValueError, RecursionError):
                # Keys that JSON has not, circles, endless numbers, nesting without end.
                return None, False
    text = redacted(text)
    return text[:MOST_CHARACTERS], len(text) > MOST_CHARACTERS
