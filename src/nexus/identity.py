"""Whether a run that goes on is still the same run, and what is said and recorded if not."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nexus.errors import UsageError
from nexus.recipe.schema import Recipe
from nexus.rundir import RunDirectory
from nexus.spec import nearest

NAMES = ("teacher", "student", "tokenizer", "chat_template", "data", "recipe", "versions")
"""What is not changed under a run without being told to, by `--allow-changed`."""

DECISIVE = ("nexus", "versions.torch", "versions.transformers", "versions.tokenizers")
"""The libraries another version of which gives other results."""

RECORDED = ("python", "versions", "hardware")
"""Parts of environment.json that may change, to be recorded: results are equal up to rounding."""

WITHOUT_EFFECT = "hardware.memory settings"

ENCODING = ("tokenizer", "chat_template")
"""What makes text into tokens."""

_SHOWN_DIGITS = 12


@dataclass(frozen=True)
class Change:
    """One thing that is no longer what it was."""

    name: str
    """What allows it; nothing if nobody needs to."""
    what: str
    before: str
    now: str

    def __str__(self) -> str:
        return f"{self.what}: {self.before} there, {self.now} now"


class Identity:
    """What a run is made of: what its directory says, against what it would go on with."""

    def __init__(
        self,
        run: RunDirectory,
        recipe: Recipe,
        folder: Path,
        allowed: Collection[str] = (),
        *,
        named: bool = True,
    ) -> None:
        """Compare the recipes; everything else is yet to be told.

        Args:
            run: the run, new or begun earlier.
            recipe: what it would go on with.
            folder: what the recipe's paths are relative to.
            allowed: the names of what may have changed.
            named: whether the recipe's names are where teacher and student come from. False: they
                are in memory, and may be called anything.
        """
        check_names(allowed)
        self._run, self._recipe, self._folder, self._allowed = run, recipe, folder, allowed
        self._before = run.environment
        self._stages = tuple(stage.name for stage in recipe.all_stages)
        self._found = [
            Change("recipe", f"recipe.{key}", repr(before), repr(now))
            for key, before, now in run.differences(recipe, folder)
            if named or key not in ("teacher.model", "student.model")
        ]
        self.fingerprints: dict[str, str] = {}

    @contextmanager
    def named_along(self) -> Iterator[None]:
        """Say of a mistake inside that the recipe is another, too: that may be what is wrong."""
        try:
            yield
        except UsageError as error:
            if refused := self._refused():
                raise UsageError(f"{error}\n{self._refusal(refused)}") from None
            raise

    def confirm(self, facts: Mapping[str, Any], fingerprints: Mapping[str, str | None]) -> None:
        """Compare with what the run was made of.

        Args:
            facts: `nexus`, `python`, `versions` and `hardware`, as environment.json has them.
            fingerprints: of whatever has one; None of what cannot be known yet.

        Raises:
            UsageError: naming everything that changed and is not allowed to, with both values.
        """
        known = {name: value for name, value in fingerprints.items() if value is not None}
        self.fingerprints |= known
        before = self._before.get("fingerprints") or {}
        self._found += [
            Change(name, name, str(before[name])[:_SHOWN_DIGITS], value[:_SHOWN_DIGITS])
            for name, value in known.items()
            if before.get(name, value) != value
        ]
        self._found += _other_facts(self._before, facts)
        if refused := self._refused():
            raise UsageError(self._refusal(refused))

    @property
    def changes(self) -> list[dict[str, Any]]:
        """All changes that the run has seen, for environment.json."""
        reached = self._run.reached(self._stages)
        at = {"stage": reached[0], "step": reached[1]} if reached else {"stage": "", "step": 0}
        when = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        recorded: list[dict[str, Any]] = list(self._before.get("changes") or [])
        known = [{key: old.get(key) for key in _KEYS} for old in recorded]
        for change in self._found:
            facts = {**asdict(change), **at}
            if facts not in known:
                recorded.append({**facts, "time": when})
        return recorded

    @property
    def notices(self) -> list[str]:
        """What earlier starts of the run had to say, and a sentence for each change."""
        sentences = [_sentence(change) for change in self.changes]
        earlier = [str(notice) for notice in self._before.get("notices") or []]
        return list(dict.fromkeys([*earlier, *sentences]))

    def _refused(self) -> list[Change]:
        changed = {change.name for change in self._found}
        allowed = {"", *self._allowed}
        if changed & set(ENCODING) and changed & set(ENCODING) <= allowed:
            allowed.add("data")  # which is compared as tokens
        return [change for change in self._found if change.name not in allowed]

    def _refusal(self, refused: list[Change]) -> str:
        lines = "\n  ".join(map(str, refused))
        names = dict.fromkeys(change.name for change in refused)
        flags = " ".join(f"--allow-changed {name}" for name in names)
        return (
            f"{self._run.path} holds a run of another {_listed(list(names))}:\n  {lines}\n"
            f"Undo the change; or go on with it by {flags}, which the report will say; or set "
            "another `output`; or start over with --fresh (the old run is kept aside)"
        )


_KEYS = ("name", "what", "before", "now", "stage", "step")


def check_names(names: Collection[str]) -> None:
    """Make sure that each is the name of something that can be allowed to change.

    Raises:
        UsageError: naming those that are.
    """
    for name in names:
        if name not in NAMES:
            raise UsageError(
                f"--allow-changed '{name}' is nothing that counts{nearest(name, NAMES)}"
            )


def refuse_another_recipe(run: RunDirectory, recipe: Recipe, folder: Path) -> None:
    """A finished run is not what another recipe asks for, whatever may change.

    Raises:
        UsageError: naming the keys with both values.
    """
    Identity(run, recipe, folder).confirm({}, {})


def _other_facts(before: Mapping[str, Any], facts: Mapping[str, Any]) -> Iterator[Change]:
    old, new = _flat(before), _flat(facts)
    for key, value in new.items():
        if key not in old or old[key] == value:
            continue
        if key in DECISIVE:
            what = key if key.startswith("versions.") else f"versions.{key}"
            yield Change("versions", what, old[key], value)
        elif key.split(".")[0] in RECORDED and key != WITHOUT_EFFECT:
            yield Change("", key, old[key], value)


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = str(value)
    return flat


def _sentence(change: Mapping[str, Any]) -> str:
    where = (
        f"step {change['step']} of stage '{change['stage']}'" if change["stage"] else "its start"
    )
    allowed = f", allowed by --allow-changed {change['name']}" if change["name"] else ""
    return (
        f"From {where} on the run had another {change['what']}: {change['now']}, "
        f"before it was {change['before']}{allowed}."
    )


def _listed(names: list[str]) -> str:
    words = [name.replace("_", " ") for name in names]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
