"""The comparison of two models as people read it."""

from __future__ import annotations

import io

from rich.console import Console

from nexus.contrasts import Contrast, Contrasts
from nexus.report.contrasts import contrasts_table
from nexus.results import Estimate, Subject


def row(measure: str, verdict: str, detectable: float | None) -> Contrast:
    share = Estimate(value=0.5, low=0.4, high=0.6, n=200, unit="share")
    return Contrast.parse(
        {
            "measure": measure,
            "higher_is_better": True,
            "first": share,
            "second": share,
            "difference": share,
            "p_value": 0.0001,
            "adjusted_p_value": 0.0417,
            "detectable": detectable,
            "verdict": verdict,
        }
    )


def shown(*rows: Contrast, left_out: tuple[str, ...] = (), width: int = 160) -> str:
    a, b = (Subject(name=name, fingerprint=name, dtype="float32") for name in ("one", "other"))
    table = contrasts_table(Contrasts(first=a, second=b, rows=rows, left_out=left_out))
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(table)
    return console.export_text()


def test_verdicts_are_words_and_n_is_said() -> None:
    text = shown(row("easy", "first", 0.1), row("hard", "second", 0.1))
    assert "A better" in text and "B better" in text and "200" in text
    assert "A = one" in text and "B = other" in text
    assert "< 0.001" in text and "0.042" in text


def test_no_difference_says_what_would_have_been_seen() -> None:
    text = shown(row("easy", "none detected", 0.077))
    assert "no difference detected" in text and "7.7" in text
    assert "seen from" not in shown(row("easy", "none detected", None))


def test_the_verdict_can_be_read_in_a_narrow_window() -> None:
    text = shown(row("Top-1 agreement", "none detected", 0.077), width=80)
    assert "no difference detected" in text and "7.7" in text and "…" not in text


def test_what_was_left_out_is_said() -> None:
    assert "Left out: task 'hard'" in shown(row("easy", "first", 0.1), left_out=("task 'hard'",))
