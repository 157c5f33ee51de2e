"""What a benchmark leaves behind: tables to read, and everything in JSON."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def goal(what: str, value: float, *, least: float = 0.0, most: float = 0.0) -> dict[str, Any]:
    """Something that must hold: `value` is at least or at most so much."""
    bound = f"≥ {least:g}" if least else f"≤ {most:g}"
    return {
        "what": what,
        "value": value,
        "goal": bound,
        "met": value >= least if least else value <= most,
    }


def goals_table(goals: Sequence[dict[str, Any]]) -> str:
    rows = [
        [each["what"], f"{each['value']:.3g}", each["goal"], "yes" if each["met"] else "**no**"]
        for each in goals
    ]
    return table(["Nexus", "measured", "goal", "met"], rows)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table: words to the left, numbers to the right."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def spread(values: Sequence[float], digits: int) -> str:
    """Median [smallest–largest]."""
    middle, least, most = statistics.median(values), min(values), max(values)
    return f"{middle:,.{digits}f} [{least:,.{digits}f}–{most:,.{digits}f}]"


def failure(title: str, error: str, columns: int) -> list[str]:
    """The row of a variant that did not run: the last line of what it said."""
    return [title, f"failed: {error.strip().splitlines()[-1]}", *["–"] * (columns - 2)]


def publish(text: str, facts: dict[str, Any], path: Path | None) -> None:
    """Print the tables; write them, and the facts beside them, where `path` says."""
    print(text)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".md").write_text(text + "\n", encoding="utf-8")
        facts_text = json.dumps(facts, indent=1, ensure_ascii=False, allow_nan=False)
        path.with_suffix(".json").write_text(facts_text + "\n", encoding="utf-8")
