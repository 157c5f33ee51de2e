"""What `nexus check` prints, and how it ends."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from nexus.checking.check import check, described
from nexus.checking.seen import Seen
from nexus.checking.view import as_json, check_table, show_on
from nexus.data.loader import Batches
from nexus.errors import NexusError
from nexus.recipe.load import load
from nexus.voice import Say


def run_check(recipe: Path, overrides: Sequence[str], as_object: bool, say: Say) -> None:
    """Check a recipe completely, and print what was found.

    Args:
        recipe: The file.
        overrides: Of its values.
        as_object: Whether one JSON object is printed instead of tables.
        say: Told what begins.

    Raises:
        UsageError: For what cannot even be loaded.
        NexusError: Something is not so; one line each, with the remedy.
    """
    console = Console()
    data: list[tuple[Batches, Seen]] = []

    def show(batches: Batches, seen: Seen) -> None:
        data.append((batches, seen))
        if not as_object:
            show_on(console, batches, seen)

    result = check(load(recipe, overrides), recipe.parent, show=show, say=say)
    if as_object:
        batches, seen = data[0] if data else (None, None)
        print(json.dumps(as_json(result, batches, seen), ensure_ascii=False))
    else:
        console.print(check_table(result))
    if result.failures:
        lines = [f"failed: {described(proof)}" for proof in result.failures]
        raise NexusError("\n".join(lines))
