from __future__ import annotations

from typing import Any

import pytest

from nexus.report.data import data_view

SUMMARY: dict[str, Any] = {
    "train: folder/train.jsonl": {
        "rows": 1200,
        "examples": 1190,
        "tokens": 50_000,
        "target_tokens": 40_000,
        "skipped": 2,
        "skipped_rows": ["train.jsonl:7: not JSON", "train.jsonl:9: empty"],
        "truncated": 8,
        "split": 0,
        "dropped": 5,
        "escaped": 0,
        "streamed": False,
    },
    "heldout: org/web": {"rows": 3, "streamed": True},
    "total": {"training rows": 2401, "share": 0.975, "held-out documents also trained on": 0},
}


def test_what_each_source_gave_and_lost() -> None:
    view = data_view(SUMMARY)
    assert view is not None
    names = ["rows", "documents", "tokens", "targets", "truncated", "skipped", "too long"]
    assert view.columns == names
    assert view.sources == [
        ("train.jsonl", "training", ["1,200", "1,190", "50,000", "40,000", "8", "2", "5"]),
        ("web", "held out, streamed: counted as far as read", ["3", *["–"] * 6]),
    ]
    assert view.skipped == ["train.jsonl:7: not JSON", "train.jsonl:9: empty"]
    assert view.totals[:2] == [("training rows", "2,401"), ("share", "0.975")]


@pytest.mark.parametrize("nothing", [None, {}])
def test_unknown_data_is_no_section(nothing: dict[str, Any] | None) -> None:
    assert data_view(nothing) is None


@pytest.mark.parametrize(("shared", "said"), [(0, ""), (2000, "flatters the student: 2,000.")])
def test_heldout_documents_that_were_trained_on_are_a_warning(shared: int, said: str) -> None:
    view = data_view({"total": {"held-out documents also trained on": shared}})
    assert view is not None
    assert view.warning.endswith(said) and bool(view.warning) == bool(said)
