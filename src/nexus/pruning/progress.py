"""Progress: sums over text and what was tried, on disk, so that what is interrupted goes on."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialised
from torch import Tensor

from nexus import durable
from nexus.batch import Batch
from nexus.durable import Damaged
from nexus.fingerprint import of_facts
from nexus.voice import Say

T = TypeVar("T")

PAUSE_SECONDS = 30.0
"""At least so long between two times, and twenty times as long as one takes."""


MOST_BYTES = 2**31
"""Larger sums are not put away: to write them would take longer, and more memory, than it saves."""

SAID_SECONDS = 15.0
"""How often whoever waits is told how far it is."""


def announced(items: Sequence[T], say: Say, what: str, unit: str = "batches") -> Iterator[T]:
    """The items, with a word now and then on how many are done and how long the rest takes."""
    begin = said = time.monotonic()
    for number, item in enumerate(items):
        now = time.monotonic()
        if number and now - said >= SAID_SECONDS:
            left = (now - begin) / number * (len(items) - number)
            say(f"{what}: {number} of {len(items)} {unit}, about {left:.0f} s to go")
            said = now
        yield item


@dataclass
class Progress:
    """How far a measurement is; without a path nothing is put away."""

    path: Path | None = None
    facts: Mapping[str, str] = field(default_factory=dict)
    """What is measured on what: sums of anything else are no use."""
    pause_seconds: float = PAUSE_SECONDS
    _done: int = 0
    _last: float = field(default_factory=time.monotonic)
    _took: float = 0.0

    def begin(self) -> dict[str, Tensor] | None:
        """The sums so far, if there are any."""
        if self.path is None or not self.path.is_file():
            return None
        try:
            with safe_open(self.path, framework="pt") as file:
                facts = dict(file.metadata() or {})
                done = int(facts.pop("batches", "0"))
                if facts != dict(self.facts):
                    return None
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise Damaged(
                f"{self.path} cannot be read ({error}): remove it, to measure anew"
            ) from None
        self._done = done
        return tensors

    def rest(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The batches that are not in the sums yet."""
        return islice(batches, self._done, None)

    def done(self, sums: Callable[[], Mapping[str, Tensor]], size: int = 0) -> None:
        """One more batch is in the sums, of so many bytes: too many are not put away."""
        self._done += 1
        waited = time.monotonic() - self._last
        if (
            self.path is None
            or size > MOST_BYTES
            or waited < max(self.pause_seconds, 20 * self._took)
        ):
            return
        begin = time.monotonic()
        facts = {**self.facts, "batches": str(self._done)}
        durable.write(self.path, serialised(dict(sums()), metadata=facts))
        self._last = time.monotonic()
        self._took = self._last - begin

    def finish(self) -> None:
        """Nothing needs to go on any more."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)


class Notebook:
    """What was found so far; what was written under another key is forgotten.

    Args:
        path: a file of JSON, there already or not; without one nothing is put away.
        key: of all that it depends on.

    Raises:
        Damaged: the file cannot be read, or holds what was not written.
    """

    def __init__(self, path: Path | None = None, key: str = "") -> None:
        self._path, self._key = path, key
        self.facts: dict[str, Any] = {}
        if path is None or not path.is_file():
            return
        try:
            said = dict(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise Damaged(f"{path} cannot be read ({error}): remove it, to try anew") from None
        if said.pop("key", None) != key:
            return
        if said.pop("sha256", None) != of_facts(said):
            raise Damaged(f"{path} is not what was written: remove it, to try anew")
        self.facts = said

    def keep(self, **facts: Any) -> None:
        """Add to what is known, or put it in the place of what was."""
        self.facts |= facts
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            told = {"key": self._key, "sha256": of_facts(self.facts), **self.facts}
            durable.write(self._path, json.dumps(told, indent=1) + "\n")
