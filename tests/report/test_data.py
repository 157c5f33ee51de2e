from __future__ import annotations

import json
from dataclasses import asdict

import pytest

from nexus.data.corpus import DataSummary
from nexus.data.faults import Fault
from nexus.data.ingest import SourceSummary
from nexus.report.data import contamination, data_view

SOURCE = SourceSummary(
    source="folder/train.jsonl",
    rows=1200,
    examples=1190,
    tokens=50_000,
    target_tokens=40_000,
    skipped=2,
    skipped_rows=(Fault("train.jsonl:7", "not JSON"), Fault("train.jsonl:9", "empty")),
    truncated=8,
    split=0,
    dropped=5,
    escaped=0,
)


def summary(**changes: object) -> dict[str, object]:
    whole = DataSummary(
        train=(SOURCE,),
        heldout=(),
        train_tokens=50_000,
        heldout_tokens=0,
        rows=99,
        packing_efficiency=0.975,
        contaminated=0,
    )
    return json.loads(json.dumps(asdict(whole))) | changes


def test_what_each_source_gave_and_lost() -> None:
    view = data_view(summary())
    assert view is not None
    names = ["rows", "documents", "tokens", "targets", "truncated", "skipped", "too long"]
    assert view.columns == names
    values = ["1,200", "1,190", "50,000", "40,000", "8", "2", "5"]
    assert view.sources == [("train.jsonl", "training", values)]
    assert view.skipped == ["train.jsonl:7: not JSON", "train.jsonl:9: empty"]
    assert view.totals == [
        "99 packed training rows.",
        "97.5 % of their positions hold text.",
        "No held-out document is a training document.",
    ]


def test_a_stream_is_said_to_be_counted_in_part() -> None:
    view = data_view(summary(train=[{"source": "org/web", "rows": 3, "streamed": True}]))
    assert view is not None
    name, split, values = view.sources[0]
    assert (name, split) == ("web", "training, streamed: counted as far as read")
    assert values == ["3", "–", "–", "–", "–", "–"]


@pytest.mark.parametrize("nothing", [None, {}])
def test_unknown_data_is_no_section(nothing: dict[str, object] | None) -> None:
    assert data_view(nothing) is None


def test_contamination_is_counted() -> None:
    assert contamination(1).startswith("1 held-out document is")
    assert contamination(2000).startswith("2,000 held-out documents are")
