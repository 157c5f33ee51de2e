"""The live view of a run: a panel in a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from rich.columns import Columns
from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

from nexus.visible import one_line

LINES_A_RUN = 40
"""Without a terminal, about so many lines are printed for a run of any length."""


class View:
    """Shows each step: every loss term, KL at T = 1, agreement, speed, memory, time left."""

    def __init__(
        self,
        stage: str,
        first: int,
        steps: int,
        *,
        quiet: bool = False,
        console: Console | None = None,
    ) -> None:
        self._stage, self._steps, self._quiet = one_line(stage), steps, quiet
        self._first, self._started = first, time.monotonic()
        self._console = console or Console(file=sys.stderr, soft_wrap=True)
        self._every = max(1, steps // LINES_A_RUN)
        name = TextColumn(self._stage.replace("{", "{{").replace("}", "}}"), markup=False)
        self._bar = Progress(name, BarColumn(None), MofNCompleteColumn(), expand=True)
        self._task = self._bar.add_task(self._stage, total=steps, completed=first)
        self._live: Live | None = None
        self._heldout: dict[str, str] = {}

    def __enter__(self) -> Self:
        if not self._quiet and self._console.is_terminal:
            self._live = Live(console=self._console, refresh_per_second=4, transient=False)
            self._live.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.__exit__(kind, error, trace)

    def show(self, step: int, values: Mapping[str, Any]) -> None:
        """Show a finished step, numbered from 1."""
        if self._quiet:
            return
        if values.get("heldout_kl") is not None:
            self._heldout = {"held-out KL": f"{values['heldout_kl']:.4f} (step {step})"}
        facts = {**_facts(values), **self._heldout, "time left": self._left(step)}
        if self._live is not None:
            self._bar.update(self._task, completed=step)
            self._live.update(Panel(Group(self._bar, _columns(facts)), title="distilling"))
        elif step % self._every == 0 or step in (self._first + 1, self._steps):
            words = "  ".join(f"{name} {value}" for name, value in facts.items())
            self._console.print(
                f"{self._stage} {step}/{self._steps}  {words}", highlight=False, markup=False
            )

    def _left(self, step: int) -> str:
        done = step - self._first
        if done < 3:
            return "–"  # the first steps compile and would mislead
        return duration((time.monotonic() - self._started) / done * (self._steps - step))


def duration(seconds: float) -> str:
    """45 s, 3 min 20 s, 2 h 05 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _facts(values: Mapping[str, Any]) -> dict[str, str]:
    facts = {"loss": f"{values['loss']:.4f}"}
    facts |= {one_line(name): f"{value:.4f}" for name, value in values["terms"].items()}
    if "kl" in values:
        facts |= {"KL(T=1)": f"{values['kl']:.4f}", "agreement": f"{values['agreement']:.1%}"}
    facts["tokens/s"] = f"{values['tokens_per_second']:,.0f}"
    facts["peak memory"] = f"{values['peak_memory_gib']:.2f} GiB"
    return facts


def _columns(facts: Mapping[str, str]) -> Columns:
    """As many facts beside each other as the terminal is wide; none is ever cut."""
    pairs = (Text.assemble((name, "dim"), " ", (value, "bold")) for name, value in facts.items())
    return Columns(pairs, padding=(0, 3))
