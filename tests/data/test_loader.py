from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from nexus.batch import ANSWER, IGNORED, PADDING, RATIONALE, Batch
from nexus.data.chat import Example, stable_key
from nexus.data.loader import Batches, DataSpec, collate, from_padded, load
from nexus.errors import UsageError

LENGTH = 12
Pairs = Counter[tuple[tuple[int, ...], int]]


def _example(ids: Sequence[int], flags: Sequence[bool], task: str = "", part: int = 0) -> Example:
    array = np.array(ids, dtype=np.int32)
    return Example(
        ids=array,
        is_target=np.array(flags, dtype=bool),
        parts=np.full(len(ids), part, dtype=np.int8),
        task=task,
        key=stable_key(array, task),
        place="f:1",
    )


def _pairs(batch: Batch) -> Pairs:
    """What every target is predicted from, read off a batch as a model does: by its documents."""
    pairs: Pairs = Counter()
    for row, position in (batch.targets != IGNORED).nonzero().tolist():
        document = batch.documents[row, position]
        assert document != PADDING
        seen = batch.documents[row, : position + 1] == document
        prefix = batch.input_ids[row, : position + 1][seen]
        pairs[tuple(prefix.tolist()), int(batch.targets[row, position])] += 1
    return pairs


def _by_hand(examples: Sequence[Example]) -> Pairs:
    pairs: Pairs = Counter()
    for example in examples:
        for at in range(1, len(example)):
            if example.is_target[at]:
                pairs[tuple(example.ids[:at].tolist()), int(example.ids[at])] += 1
    return pairs


@st.composite
def documents(draw: st.DrawFn, most: int = LENGTH) -> Example:
    size = draw(st.integers(1, most))
    ids = st.lists(st.integers(0, 9), min_size=size, max_size=size)
    flags = st.lists(st.booleans(), min_size=size, max_size=size)
    return _example(draw(ids), draw(flags), draw(st.sampled_from(["a", "b"])))


@st.composite
def full_rows(draw: st.DrawFn) -> list[list[Example]]:
    rows: list[list[Example]] = []
    for _ in range(draw(st.integers(1, 3))):
        row: list[Example] = []
        while room := LENGTH - sum(map(len, row)):
            if not draw(st.booleans()):
                break
            row.append(draw(documents(room)))
        rows.append(row)
    return rows


def test_collate_by_hand() -> None:
    """To see it fail: in data/loader.py, `example.is_target[1:], example.ids[1:], IGNORED` →
    `example.is_target[:-1], example.ids[:-1], IGNORED`.
    """
    rationale = _example([5, 6, 7], [False, True, True], "math", RATIONALE)
    text = _example([1, 2], [True, True], "web")
    batch = collate([[rationale, text], []], 7, pad_id=9, task_names=("web", "math"))
    x = IGNORED
    assert batch.input_ids.tolist() == [[5, 6, 7, 1, 2, 9, 9], [9] * 7]
    assert batch.targets.tolist() == [[6, 7, x, 2, x, x, x], [x] * 7]
    assert batch.position_ids.tolist() == [[0, 1, 2, 0, 1, 0, 1], [*range(7)]]
    assert batch.documents.tolist() == [[0, 0, 0, 1, 1, -1, -1], [-1] * 7]
    targets = batch.at_targets()
    assert targets.parts.tolist() == [RATIONALE, RATIONALE, ANSWER]
    assert targets.tasks.tolist() == [1, 1, 0]
    assert batch.keys == ((rationale.key, text.key), ())


def test_a_part_is_that_of_the_target() -> None:
    parts = np.array([ANSWER, RATIONALE, RATIONALE, ANSWER], dtype=np.int8)
    example = replace(_example([5, 6, 7, 8], [False, True, True, True]), parts=parts)
    targets = collate([[example]], 6, 0, ("",)).at_targets()
    assert targets.tokens.tolist() == [6, 7, 8]
    assert targets.parts.tolist() == [RATIONALE, RATIONALE, ANSWER]


@given(rows=full_rows())
def test_nothing_leaks_and_nothing_is_lost(rows: list[list[Example]]) -> None:
    """To see it fail: in data/loader.py, `example.is_target[1:], example.ids[1:], IGNORED` →
    `example.is_target[1:] & (np.arange(1, len(example)) >= len(rows) - row), example.ids[1:],
    IGNORED`.
    """
    batch = collate(rows, LENGTH, 9, ("a", "b"))
    assert _pairs(batch) == _by_hand([example for row in rows for example in row])
    for row, examples in enumerate(rows):
        numbers = [n for n, example in enumerate(examples) for _ in example.ids]
        tail = LENGTH - len(numbers)
        assert batch.documents[row].tolist() == numbers + [PADDING] * tail
        counted = [at for example in examples for at in range(len(example))]
        assert batch.position_ids[row].tolist() == counted + list(range(tail))


def test_a_task_without_a_number_is_named() -> None:
    with pytest.raises(UsageError, match=r"f:1: .*'b' is not among the tasks 'a'"):
        collate([[_example([1, 2], [True, True], "b")]], 4, 0, ("a",))


@given(rows=st.lists(documents(), min_size=1, max_size=4), extra=st.integers(0, 3))
def test_padding_side_and_amount_change_nothing(rows: list[Example], extra: int) -> None:
    width = max(map(len, rows)) + extra

    def padded(side: str, filler: int, values: list[list[int]]) -> Tensor:
        full = [[filler] * (width - len(row)) for row in values]
        pieces = zip(full, values, strict=True)
        return torch.tensor([f + v if side == "left" else v + f for f, v in pieces])

    ids = [row.ids.tolist() for row in rows]
    labels = [np.where(row.is_target, row.ids, IGNORED).tolist() for row in rows]
    ones = [[1] * len(row) for row in rows]
    for side in ("left", "right"):
        for filler in (IGNORED, 3):
            batch = from_padded(
                padded(side, 9, ids), padded(side, filler, labels), padded(side, 0, ones)
            )
            assert _pairs(batch) == _by_hand(rows)
            for row, example in enumerate(rows):
                real = batch.documents[row] != PADDING
                assert batch.position_ids[row][real].tolist() == list(range(len(example)))


def test_without_labels_every_next_token_is_a_target() -> None:
    ids = torch.tensor([[4, 5, 6]])
    assert from_padded(ids).targets.tolist() == [[5, 6, IGNORED]]
    mask = torch.tensor([[0, 1, 1]])
    assert from_padded(ids, attention_mask=mask).targets.tolist() == [[IGNORED, 6, IGNORED]]
    assert from_padded(ids, attention_mask=mask.bool()).documents.tolist() == [[PADDING, 0, 0]]


IDS = torch.ones(2, 3, dtype=torch.long)


@pytest.mark.parametrize(
    ("labels", "mask", "reason"),
    [
        (IDS[:, :2], None, r"labels has the shape \(2, 2\), input_ids \(2, 3\)"),
        (None, IDS[:1], r"attention_mask has the shape \(1, 3\)"),
        (IDS - 5, None, "labels hold -4"),
        (None, torch.tensor([[1, 0, 1], [1, 1, 1]]), "padding between tokens"),
        (None, IDS * 2, "other than 0 and 1"),
        (None, IDS.to("meta"), "attention_mask is on meta"),
    ],
)
def test_tensors_that_do_not_fit_are_named(
    labels: Tensor | None, mask: Tensor | None, reason: str
) -> None:
    with pytest.raises(UsageError, match=reason):
        from_padded(IDS, labels, mask)


@pytest.mark.parametrize("ids", [IDS[0], IDS.float(), IDS[None]])
def test_only_rows_of_token_ids_are_taken(ids: Tensor) -> None:
    with pytest.raises(UsageError, match=r"input_ids has the shape .*\[rows, length\]"):
        from_padded(ids)


class TestLoad:
    """The whole way from files to batches."""

    @pytest.fixture(autouse=True)
    def _files(self, tmp_path: Path, write_jsonl: Callable[..., Path]) -> None:
        self.folder = tmp_path
        write_jsonl("math.jsonl", [{"question": f"{n}+1", "answer": f"{n + 1}"} for n in range(40)])
        write_jsonl("web.jsonl", [{"text": "x" * (n % 9 + 1) + str(n)} for n in range(60)])
        write_jsonl("held.jsonl", [{"text": f"held {n}"} for n in range(7)])

    @pytest.fixture(autouse=True)
    def _tokenizer(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.tokenizer = tokenizer

    def load(self, spec: dict[str, Any] | None = None, **settings: Any) -> Batches:
        values: dict[str, Any] = {
            "sources": [
                {"kind": "jsonl", "path": "math.jsonl", "task": "math"},
                {"kind": "jsonl", "path": "web.jsonl", "task": "web"},
            ],
            "heldout": [{"kind": "jsonl", "path": "held.jsonl", "task": "web"}],
            "sequence_length": 16,
        }
        given = {"seed": 0, "tokens_per_step": 16 * 8, "micro_batch_rows": 2, **settings}
        return load(DataSpec.parse(values | (spec or {})), self.tokenizer, self.folder, **given)

    def test_take_is_a_pure_function_of_the_step(self) -> None:
        once, again = self.load(), self.load()
        steps = {step: once.take(step) for step in (0, 1, 2, 30)}
        for step in (30, 1, 0, 2, 1):
            assert _same(again.take(step), steps[step])
        assert not _same(once.take(0), once.take(1))
        assert not _same(self.load(seed=1).take(0), steps[0])
        assert once.fingerprint == again.fingerprint

    @pytest.mark.parametrize("world", [2, 4])
    def test_ranks_divide_the_rows(self, world: int) -> None:
        alone = _concatenated(self.load().take(5))
        ranks = [self.load(rank=rank, world=world).take(5) for rank in range(world)]
        assert torch.equal(torch.cat([_concatenated(batches) for batches in ranks]), alone)

    @pytest.mark.parametrize(("tokens", "rows"), [(1, 1), (16, 1), (17, 2), (16 * 8 * 3, 24)])
    def test_the_beginning_is_alike_on_all_ranks_and_that_of_the_steps(
        self, tokens: int, rows: int
    ) -> None:
        steps = torch.cat([_concatenated(self.load().take(step)) for step in range(4)])
        for settings in ({}, {"rank": 1, "world": 2}, {"micro_batch_rows": 3}):
            batches = self.load(**settings)
            assert torch.equal(_concatenated(list(batches.beginning(tokens))), steps[:rows])
            later = _concatenated(list(batches.beginning(tokens, first_row=5)))
            assert torch.equal(later, steps[5 : 5 + rows])

    def test_micro_batches_only_group(self) -> None:
        by_two, by_three = self.load().take(1), self.load(micro_batch_rows=3).take(1)
        assert [len(batch.input_ids) for batch in by_two] == [2, 2, 2, 2]
        assert [len(batch.input_ids) for batch in by_three] == [3, 3, 2]
        assert torch.equal(_concatenated(by_two), _concatenated(by_three))

    def test_an_epoch_holds_every_document_once(self) -> None:
        batches = self.load(tokens_per_step=16, micro_batch_rows=1)
        seen = Counter(
            key
            for step in range(batches.summary.rows)
            for batch in batches.take(step)
            for row in batch.keys
            for key in row
        )
        assert len(seen) == 100 and set(seen.values()) == {1}

    def test_weights_are_shares_of_rows(self) -> None:
        batches = self.load({"weights": {"math": 0.75, "web": 0.25}})
        tasks = torch.cat([batch.tasks[:, 0] for step in range(5) for batch in batches.take(step)])
        assert batches.task_names == ("math", "web")
        assert (tasks == 0).sum() == 30 and (tasks == 1).sum() == 10

    def test_heldout_keeps_its_order(self) -> None:
        batches = self.load()
        found = [batch for batch in batches.heldout(rows=2)]
        text = "".join(
            self.tokenizer.decode(batch.input_ids[batch.documents != PADDING]) for batch in found
        )
        assert text == "".join(f"held {n}<|im_end|>" for n in range(7))
        assert sum(len(row) for batch in found for row in batch.keys) == 7
        assert all(len(batch.input_ids) == 2 for batch in found[:-1])
        assert list(self.load({"heldout": []}).heldout()) == []

    def test_without_packing_a_row_is_a_document(self) -> None:
        batches = self.load({"packing": False})
        assert all(len(row) == 1 for batch in batches.take(0) for row in batch.keys)

    def test_the_fingerprint_covers_data_and_specification(self) -> None:
        usual = self.load().fingerprint
        assert self.load(seed=9).fingerprint == usual
        assert self.load({"packing": False}).fingerprint != usual
        (self.folder / "held.jsonl").write_text('{"text": "other"}\n')
        assert self.load().fingerprint != usual

    def test_task_names_may_be_given(self) -> None:
        assert self.load(task_names=["web", "code", "math"]).task_names == ("web", "code", "math")
        with pytest.raises(UsageError, match="the data has the task 'math'"):
            self.load(task_names=["web"])

    def test_streams(self, monkeypatch: pytest.MonkeyPatch) -> None:
        data = datasets.Dataset.from_list([{"text": f"streamed {n}"} for n in range(9)])
        monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: data.to_iterable_dataset())
        hub = {"kind": "hub", "name": "a/b", "streaming": True, "task": "stream"}
        math = {"kind": "jsonl", "path": "math.jsonl", "task": "math"}
        spec = {"sources": [hub, math], "weights": {"stream": 0.5, "math": 0.5}}
        once, again = self.load(spec), self.load(spec)
        assert once.fingerprint == again.fingerprint
        steps = [once.take(step) for step in range(6)]
        for step in (5, 0, 3):
            assert _same(again.take(step), steps[step])
        assert once.summary.train[-1].streamed

    @pytest.mark.parametrize(
        ("spec", "settings", "fragments"),
        [
            ({"sources": []}, {}, ("'sources'", "name a source")),
            ({"sequence_length": 1}, {}, ("'sequence_length' is 1",)),
            ({"sequence_lenght": 8}, {}, ("did you mean 'sequence_length'?",)),
            ({"sources": [{"kind": "jsnl"}]}, {}, ("did you mean 'jsonl'?",)),
            ({}, {"tokens_per_step": 100}, ("tokens_per_step is 100", "Set it to 96 or 112")),
            ({}, {"tokens_per_step": 7}, ("tokens_per_step is 7", "Set it to 16")),
            ({}, {"world": 3}, ("16 × 3 processes", "Set it to 96 or 144")),
            ({}, {"context_limit": 8}, ("sequence_length is 16", "at most 8 positions")),
            ({}, {"micro_batch_rows": 0}, ("micro_batch_rows is 0",)),
            (
                {"heldout": [{"kind": "hub", "name": "a/b", "streaming": True}]},
                {},
                ("a/b", "Set limit"),
            ),
            ({"sequence_length": 4}, {"tokens_per_step": 64}, ("math.jsonl:1: 6 tokens",)),
        ],
    )
    def test_mistakes_are_named(
        self, spec: dict[str, Any], settings: dict[str, Any], fragments: tuple[str, ...]
    ) -> None:
        with pytest.raises(UsageError) as caught:
            self.load(spec, **settings)
        for fragment in fragments:
            assert fragment in str(caught.value)


def _concatenated(batches: Sequence[Batch]) -> Tensor:
    return torch.cat([batch.input_ids for batch in batches])


def _same(one: Sequence[Batch], other: Sequence[Batch]) -> bool:
    names = ("input_ids", "targets", "position_ids", "documents", "parts", "tasks")
    return len(one) == len(other) and all(
        torch.equal(getattr(a, name), getattr(b, name)) and a.keys == b.keys
        for a, b in zip(one, other, strict=True)
        for name in names
    )
