"""Text to measure on is cut exactly as a run cuts its held-out documents."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import torch

from nexus.data.loader import DataSpec, load
from nexus.data.sources import Jsonl
from nexus.data.texts import texts
from nexus.errors import UsageError

WORK = runpy.run_path(str(Path(__file__).parents[1] / "workspace.py"))
TOKENIZER = WORK["make_tokenizer"]()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows = [{"text": text} for text in WORK["sentences"](12)]
    WORK["write_rows"](tmp_path / "some.jsonl", rows)
    WORK["write_rows"](tmp_path / "other.jsonl", rows[:6])
    return tmp_path


def test_rows_are_those_of_a_run(folder: Path) -> None:
    heldout = (Jsonl(path="some.jsonl"),)
    spec = DataSpec(
        sources=(Jsonl(path="other.jsonl"),),
        heldout=heldout,
        sequence_length=128,
        over_long="split",
    )
    run = load(spec, TOKENIZER, folder, seed=0, tokens_per_step=128, micro_batch_rows=2)
    ours = list(texts(heldout, TOKENIZER, folder, length=128, rows=2))
    theirs = list(run.heldout())
    assert len(ours) == len(theirs) > 1
    for mine, its in zip(ours, theirs, strict=True):
        assert mine.keys == its.keys
        assert torch.equal(mine.targets, its.targets)
        assert torch.equal(mine.input_ids[mine.documents >= 0], its.input_ids[its.documents >= 0])


def test_the_fingerprint_is_of_the_documents_and_how_they_are_cut(folder: Path) -> None:
    def of(name: str, length: int) -> str:
        return texts([Jsonl(path=name)], TOKENIZER, folder, length=length).fingerprint

    (folder / "moved.jsonl").write_bytes((folder / "some.jsonl").read_bytes())
    assert of("some.jsonl", 128) == of("moved.jsonl", 128)
    assert len({of("some.jsonl", 128), of("some.jsonl", 64), of("other.jsonl", 128)}) == 3


def test_text_that_cannot_be_used_is_refused(folder: Path) -> None:
    (folder / "empty.jsonl").write_text("")
    with pytest.raises(UsageError, match="empty.jsonl: the data set is empty"):
        texts([Jsonl(path="empty.jsonl")], TOKENIZER, folder, length=128)
    with pytest.raises(UsageError, match="Set the sequence length to 64 or less"):
        texts([Jsonl(path="some.jsonl")], TOKENIZER, folder, length=128, context_limit=64)


def test_a_mistake_is_told_without_a_word_of_recipes(folder: Path) -> None:
    """Nobody who evaluates a model has one."""
    WORK["write_rows"](folder / "bad.jsonl", [{"txt": "a"}])
    with pytest.raises(UsageError, match="take it out") as told:
        texts([Jsonl(path="bad.jsonl")], TOKENIZER, folder, length=128)
    assert "recipe" not in str(told.value) and "data." not in str(told.value)
