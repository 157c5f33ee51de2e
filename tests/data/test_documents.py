"""Documents are read as often as they are asked for, whatever rows they were packed into."""

from __future__ import annotations

import runpy
from pathlib import Path

from nexus.data.loader import DataSpec, load
from nexus.data.sources import Jsonl
from nexus.data.texts import texts

SMALL = runpy.run_path(str(Path(__file__).parent.parent / "workspace.py"))


def test_every_document_once_in_training_and_held_out_data(tmp_path: Path) -> None:
    words = ["one", "two two", "three"]
    SMALL["write_rows"](tmp_path / "a.jsonl", [{"text": text} for text in words])
    SMALL["write_rows"](tmp_path / "b.jsonl", [{"text": "other"}])
    tokenizer = SMALL["make_tokenizer"]()
    source = Jsonl(path="a.jsonl")
    spec = DataSpec(sources=(source,), heldout=(Jsonl(path="b.jsonl"),), sequence_length=32)
    batches = load(spec, tokenizer, tmp_path, seed=0, tokens_per_step=32, micro_batch_rows=1)
    end = tokenizer.eos_token
    for _ in range(2):
        found = [tokenizer.decode(ids) for ids in batches.documents(1)]
        assert sorted(found) == sorted(text + end for text in words)
        assert [tokenizer.decode(ids) for ids in batches.heldout_documents] == [f"other{end}"]
    read = texts([source], tokenizer, tmp_path, length=32).documents
    assert [tokenizer.decode(ids) for ids in read] == [text + end for text in words]


def test_no_held_out_data_are_no_documents(tmp_path: Path) -> None:
    SMALL["write_rows"](tmp_path / "a.jsonl", [{"text": "one"}])
    spec = DataSpec(sources=(Jsonl(path="a.jsonl"),), sequence_length=32)
    tokenizer = SMALL["make_tokenizer"]()
    batches = load(spec, tokenizer, tmp_path, seed=0, tokens_per_step=32, micro_batch_rows=1)
    assert list(batches.heldout_documents) == []
