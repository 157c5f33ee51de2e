"""What was tried, and what became of it."""

from __future__ import annotations

from collections import defaultdict

from torture.trials import Kind, Result

HEADER = ("kind", "points", "struck", "resumed", "identical", "seconds")


class Table:
    """Results, counted by kind."""

    def __init__(self, kinds: tuple[Kind, ...]) -> None:
        self._titles = {kind.name: kind.title for kind in kinds}
        self._results: dict[str, list[Result]] = defaultdict(list)
        self._seconds: dict[str, float] = defaultdict(float)
        self.failures: list[str] = []
        self.skipped: dict[str, str] = {}

    @property
    def good(self) -> bool:
        return not self.failures

    def add(self, result: Result, seconds: float) -> None:
        self._results[result.kind].append(result)
        self._seconds[result.kind] += seconds
        if result.problem:
            self.failures.append(result.problem)

    def text(self) -> str:
        """A table in Markdown, what was skipped, and every failure."""
        rows = [
            self._row(f"{title} (`{name}`)", self._results[name], self._seconds[name])
            for name, title in self._titles.items()
            if self._results[name]
        ]
        everything = [result for results in self._results.values() for result in results]
        rows.append(self._row("all", everything, sum(self._seconds.values())))
        lines = [_line(HEADER), _line(tuple("---" for _ in HEADER)), *map(_line, rows)]
        lines += [f"\nSKIPPED {name}: {why}" for name, why in self.skipped.items()]
        lines += [f"\nFAILED {failure}" for failure in self.failures]
        return "\n".join(lines)

    def _row(self, title: str, results: list[Result], seconds: float) -> tuple[str, ...]:
        struck = sum(result.struck for result in results)
        resumed = _share([result.resumed for result in results])
        identical = _share([result.identical for result in results])
        return title, str(len(results)), str(struck), resumed, identical, f"{seconds:.0f}"


def _share(answers: list[bool | None]) -> str:
    """How many of those that were asked say yes."""
    asked = [answer for answer in answers if answer is not None]
    return f"{sum(asked)} of {len(asked)}" if asked else "–"


def _line(cells: tuple[str, ...]) -> str:
    return f"| {cells[0]:<58} | " + " | ".join(f"{cell:>12}" for cell in cells[1:]) + " |"
