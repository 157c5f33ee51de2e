from __future__ import annotations

from nexus.report.card_tables import economy_section, escaped, quality_section, task_section
from nexus.results import Evaluation


def test_every_row_has_as_many_cells_as_its_head(evaluation: Evaluation) -> None:
    for section in (quality_section, task_section, economy_section):
        head, _, *rows = section(evaluation)[1].splitlines()
        assert rows and {row.count("|") for row in rows} == {head.count("|")}


def test_what_was_not_measured_has_no_section() -> None:
    for section in (quality_section, task_section, economy_section):
        assert section(Evaluation()) == []


def test_foreign_words_mean_their_letters() -> None:
    assert escaped("a|b") == r"a\|b"
    assert "http:" not in escaped("http://x") and "\n" not in escaped("a\nb")
