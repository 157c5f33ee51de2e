"""A measurement that was interrupted ends in the very numbers of one that was not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from nexus.batch import Batch
from nexus.data.loader import from_padded
from nexus.durable import Damaged
from nexus.pruning import progress
from nexus.pruning.importance import Strategy, measure
from nexus.pruning.progress import Notebook, Progress, announced


def text() -> list[Batch]:
    torch.manual_seed(1)
    return [from_padded(torch.randint(40, (2, length))) for length in (9, 12, 7, 10)]


def cut_short(batches: list[Batch]) -> Iterator[Batch]:
    yield from batches
    raise KeyboardInterrupt


@pytest.mark.parametrize("strategy", ["activation", "taylor"])
@pytest.mark.parametrize("kind", ["llama", "qwen3_moe"])
def test_it_goes_on_where_it_was(
    strategy: Strategy, kind: str, small: Callable[..., PreTrainedModel], tmp_path: Path
) -> None:
    model, batches, path = small(kind), text(), tmp_path / "part"
    whole = measure(model, batches, strategy=strategy)
    facts = {"of": "this"}
    with pytest.raises(KeyboardInterrupt):
        progress = Progress(path, facts, pause_seconds=0.0)
        measure(model, cut_short(batches[:2]), strategy=strategy, progress=progress)
    assert path.exists()
    seen: list[int] = []

    def counted() -> Iterator[Batch]:
        for number, batch in enumerate(batches):
            seen.append(number)
            yield batch

    later = Progress(path, facts)
    again = measure(model, counted(), strategy=strategy, progress=later)
    assert again.digest == whole.digest and again.tokens == whole.tokens
    later.finish()
    assert not path.exists()


def test_sums_of_something_else_are_no_use_and_damaged_ones_are_named(tmp_path: Path) -> None:
    path = tmp_path / "part"
    one = Progress(path, {"of": "this"}, pause_seconds=0.0)
    one.done(lambda: {"a": torch.ones(2)})
    assert Progress(path, {"of": "that"}).begin() is None
    same = Progress(path, {"of": "this"})
    assert torch.equal((same.begin() or {})["a"], torch.ones(2))
    assert len(list(same.rest(text()))) == 3
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(Damaged, match="remove it"):
        Progress(path, {"of": "this"}).begin()


def test_sums_that_are_too_large_are_not_put_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "MOST_BYTES", 100)
    one = Progress(tmp_path / "part", {}, pause_seconds=0.0)
    one.begin()
    one.done(lambda: {"sum": torch.ones(2)}, 101)
    assert not one.path.exists()  # type: ignore[union-attr]
    one.done(lambda: {"sum": torch.ones(2)}, 100)
    assert one.path.exists()  # type: ignore[union-attr]


@pytest.mark.parametrize(("seconds", "said"), [(0.0, 3), (1e6, 0)])
def test_who_waits_is_told_now_and_then_and_given_every_batch(
    monkeypatch: pytest.MonkeyPatch, seconds: float, said: int
) -> None:
    """To see it fail: in progress.announced, say it at every batch, or at none."""
    monkeypatch.setattr(progress, "SAID_SECONDS", seconds)
    heard: list[str] = []
    batches = text()
    given = list(announced(batches, heard.append, "importance"))
    assert [one is other for one, other in zip(given, batches, strict=True)] == [True] * 4
    assert len(heard) == said and all(" of 4 batches, about 0 s to go" in each for each in heard)


def test_a_notebook_knows_what_was_written_under_its_key(tmp_path: Path) -> None:
    path = tmp_path / "there" / "notes.json"
    first = Notebook(path, "one")
    first.keep(lost=[0.1, 1e300], gone={"3": [1, 2]})
    first.keep(lost=[1 / 3])
    assert Notebook(path, "one").facts == first.facts == {"lost": [1 / 3], "gone": {"3": [1, 2]}}
    assert Notebook(path, "other").facts == {}
    nowhere = Notebook()
    nowhere.keep(lost=1)
    assert nowhere.facts == {"lost": 1}


def test_a_damaged_notebook_is_not_believed(tmp_path: Path) -> None:
    """Whichever bit of what it says is another."""
    path = tmp_path / "notes.json"
    Notebook(path, "one").keep(gone=[11, 2])
    whole = path.read_bytes()
    for place in range(len(whole)):
        for bit in (0, 1, 6):
            damaged = bytearray(whole)
            damaged[place] ^= 1 << bit
            path.write_bytes(damaged)
            try:
                found = Notebook(path, "one").facts
            except Damaged as error:
                assert str(path) in str(error) and "remove it, to try anew" in str(error)
            else:
                assert found in ({}, {"gone": [11, 2]})
