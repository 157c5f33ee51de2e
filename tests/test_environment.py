"""environment.json says what a run ran on and with."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest
import torch

from nexus import __version__
from nexus.data.loader import Batches, DataSpec, load
from nexus.environment import data_summary, describe
from nexus.training.parallel import Parallel

WORKSPACE = runpy.run_path(str(Path(__file__).parent / "workspace.py"))


@pytest.fixture
def batches(tmp_path: Path) -> Batches:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        WORKSPACE["write_rows"](tmp_path / name / "rows.jsonl", [{"text": f"{name} more"}] * 3)
    WORKSPACE["write_rows"](tmp_path / "bad.jsonl", [{"text": "fine"}, {"text": None}])
    spec = DataSpec.parse(
        {
            "sources": [
                {"kind": "jsonl", "path": path}
                for path in ("one/rows.jsonl", "two/rows.jsonl", "bad.jsonl")
            ],
            "on_bad_row": "skip",
            "sequence_length": 64,
        }
    )
    tokenizer = WORKSPACE["make_tokenizer"]()
    return load(spec, tokenizer, tmp_path, seed=0, tokens_per_step=64, micro_batch_rows=1)


def test_every_source_has_its_account_and_skipped_rows_their_place(batches: Batches) -> None:
    summary = data_summary(batches)
    assert len(summary) == 4  # three sources and the total
    skipped = [row for part in summary.values() for row in part.get("skipped_rows", [])]
    assert len(skipped) == 1 and "bad.jsonl:2" in skipped[0]
    assert summary["total"]["training tokens"] == batches.summary.train_tokens


def test_all_of_it_is_json(batches: Batches) -> None:
    changes = [{"name": "teacher", "before": "a", "now": "b"}]
    facts = describe(Parallel(), 3, {"data": "abc"}, batches, ["a notice"], changes)
    assert json.loads(json.dumps(facts)) == facts
    assert facts["seed"] == 3 and facts["notices"] == ["a notice"]
    assert facts["fingerprints"] == {"data": "abc"} and facts["changes"] == changes
    assert facts["versions"]["torch"].startswith(torch.__version__.split("+")[0])
    assert facts["nexus"] == __version__ and facts["hardware"]["processes"] == 1
