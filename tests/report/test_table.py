from __future__ import annotations

import io

from rich.console import Console

from nexus.report.table import retention_table
from nexus.results import Evaluation


def printed(evaluation: Evaluation, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(retention_table(evaluation.model_dump(mode="json")))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().replace("\N{NO-BREAK SPACE}", " ")


def test_the_table_shows_all_three_models_with_intervals_and_sample_size(
    evaluation: Evaluation,
) -> None:
    text = printed(evaluation)
    for part in ("teacher", "untrained", "trained", "17.0", "3,361", "26.6", "25.3 – 28.0"):
        assert part in text
    assert "88.1 %" in text and "87.6 – 88.6" in text
    assert "212 held-out documents, 30,512 tokens" in text
    assert "not said, because the untrained student" in text


def test_it_fits_a_narrow_terminal_without_cutting_numbers(evaluation: Evaluation) -> None:
    text = printed(evaluation, width=80)
    assert max(len(line) for line in text.splitlines()) <= 80
    assert "3,197 – 3,533" in text


def test_an_empty_evaluation_is_an_empty_table() -> None:
    assert retention_table(Evaluation()).row_count == 0
