from __future__ import annotations

import json
from pathlib import Path

import pytest

from nexus.errors import UsageError
from nexus.results import Estimate, Evaluation, Heldout, Quality, Refused

LOSS = Estimate(value=2.5, low=2.4, high=2.6, n=10, unit="nats")
QUALITY = Quality(nll=LOSS, perplexity=Estimate(value=12.2, n=10))


def test_what_is_saved_is_what_is_loaded(tmp_path: Path) -> None:
    heldout = Heldout(
        documents=10,
        tokens=100,
        bytes=400,
        teacher=QUALITY,
        trained=QUALITY,
        gap_closed={"nll": Refused(reason="no gap"), "forward_kl": LOSS},
    )
    saved = Evaluation(heldout=heldout)
    path = saved.save(tmp_path)
    assert path.name == "evaluation.json"
    assert Evaluation.load(tmp_path) == saved
    assert [file.name for file in tmp_path.iterdir()] == ["evaluation.json"]


def test_every_number_carries_its_interval_its_sample_size_and_its_unit(tmp_path: Path) -> None:
    heldout = Heldout(documents=10, tokens=100, bytes=0, teacher=QUALITY, trained=QUALITY)
    written = json.loads(Evaluation(heldout=heldout).save(tmp_path).read_text())
    assert written["heldout"]["trained"]["nll"] == {
        "value": 2.5,
        "low": 2.4,
        "high": 2.6,
        "n": 10,
        "unit": "nats",
    }


def test_a_run_that_was_not_evaluated_has_no_evaluation(tmp_path: Path) -> None:
    assert Evaluation.load(tmp_path) is None


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("{", "not JSON"),
        ("[1]", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ('{"speeed": 1}', "'speed'"),
    ],
)
def test_a_damaged_file_is_named_with_its_fault(tmp_path: Path, text: str, named: str) -> None:
    (tmp_path / "evaluation.json").write_text(text)
    with pytest.raises(UsageError, match=rf"evaluation\.json.*{named}"):
        Evaluation.load(tmp_path)
