"""What has been scored already, item by item, so that nothing is put to a model twice.

One line of JSON an item, appended as it comes: `of` is the fingerprint of model, tokenizer and
wording, `item` that of the item. One file serves any number of tasks and models. Whoever is killed
while writing leaves at worst half of a last line, which is cut off by the next to open the file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nexus.disk import reading, writing
from nexus.durable import flush
from nexus.evaluation.tasks.task import Item, Scored


class Ledger:
    """The lines of one model and one way of asking.

    Raises:
        DiskFull, DiskFault: if the disk refuses, here or at any later line.
    """

    def __init__(self, path: Path, of: str) -> None:
        """Read what is there.

        Args:
            path: the file; it and its folder need not exist yet.
            of: the fingerprint of the model, its tokenizer and the wording.
        """
        self._path, self._of = path, of
        self._scored: dict[str, Scored] = {}
        if path.exists():
            with reading(path):
                content = path.read_bytes()
            whole = content.rfind(b"\n") + 1
            if whole < len(content):
                with writing(path):
                    os.truncate(path, whole)
            for line in content[:whole].splitlines():
                self._read(line)

    def known(self, item: Item) -> Scored | None:
        """What the model did on exactly this item, if it was ever asked."""
        return self._scored.get(item.fingerprint)

    def add(self, items: Sequence[Item], scored: Mapping[str, Scored]) -> None:
        """Keep the scores of some items, by key. They are on disk when this returns."""
        of_key = {item.key: item for item in items}
        lines = b""
        for key, one in scored.items():
            item = of_key[key].fingerprint
            self._scored[item] = one
            entry = {
                "of": self._of,
                "item": item,
                "key": key,
                "scores": dict(one.scores),
                "answered": one.answered,
                "said": dict(one.said),
            }
            lines += json.dumps(entry, allow_nan=False).encode() + b"\n"
        with writing(self._path, len(lines)):
            new = not self._path.exists()
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("ab", buffering=0) as file:
                left = memoryview(lines)
                while left:  # a disk that is nearly full takes only a part
                    left = left[file.write(left) :]
                os.fsync(file.fileno())
            if new:
                flush(self._path.parent)

    def _read(self, line: bytes) -> None:
        """One line; one that was damaged since is as good as none, and its item is put again."""
        try:
            entry: Any = json.loads(line)
            if entry["of"] != self._of:
                return
            scores = {str(name): float(value) for name, value in entry["scores"].items()}
            item, answered, said = str(entry["item"]), bool(entry["answered"]), dict(entry["said"])
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return
        self._scored[item] = Scored(scores, answered, said)
