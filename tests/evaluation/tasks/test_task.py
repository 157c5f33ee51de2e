"""Which items a limit takes, and what tells one task from another."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus.evaluation.tasks.choice import Choice
from nexus.evaluation.tasks.task import Item, fingerprint, name_of, sample

KEYS = st.lists(st.text(min_size=1, max_size=4), min_size=1, max_size=30, unique=True)


def items(keys: list[str]) -> list[Item]:
    return [Item(key, "P", ("a", "b")) for key in keys]


@given(KEYS, st.integers(1, 40), st.integers(1, 40), st.randoms())
def test_a_limit_takes_the_same_items_whatever_their_order(
    keys: list[str], few: int, more: int, random: object
) -> None:
    taken = sample(items(keys), few)
    assert len(taken) == min(few, len(keys))
    shuffled = list(keys)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert {item.key for item in sample(items(shuffled), few)} == {item.key for item in taken}
    assert [item.key for item in taken] == [
        key for key in keys if key in {item.key for item in taken}
    ]
    if few <= more:
        assert {item.key for item in taken} <= {item.key for item in sample(items(keys), more)}


def test_a_limit_spreads_over_a_file_that_is_sorted() -> None:
    taken = sample(items([f"row-{n:04}" for n in range(1000)]), 200)
    first_half = sum(int(item.key[-4:]) < 500 for item in taken)
    assert 70 <= first_half <= 130, "100 expected, with a standard deviation of 6.3"


@pytest.mark.parametrize(
    "other",
    [
        [Item("k", "P", ("a", "b")), Item("l", "P!", ("a", "b"))],
        [Item("k", "P", ("a", "b")), Item("l", "P", ("a", "c"))],
        [Item("k", "P", ("a", "b")), Item("l", "P", ("a", "b"), label=1)],
        [Item("k", "P", ("a", "b")), Item("m", "P", ("a", "b"))],
        [Item("k", "P", ("a", "b"))],
        [Item("l", "P", ("a", "b")), Item("k", "P", ("a", "b"))],
    ],
)
def test_a_fingerprint_is_of_all_items_and_of_the_wording(other: list[Item]) -> None:
    task, these = Choice(path="x.jsonl"), items(["k", "l"])
    assert fingerprint(task, these) == fingerprint(Choice(path="y/z.jsonl", limit=9), these)
    assert fingerprint(task, these) != fingerprint(task, other)
    assert fingerprint(task, these) != fingerprint(Choice(path="x.jsonl", delimiter=""), these)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("data/arc_easy/dev.jsonl", "arc_easy"),
        ("data/mwp/dev_addsub.jsonl", "mwp"),
        ("data/arc_easy.jsonl", "arc_easy"),
        ("dev.jsonl", "dev"),
        ("data/development.jsonl", "development"),
    ],
)
def test_a_task_is_called_as_its_file_or_the_folder_of_a_split(path: str, name: str) -> None:
    assert name_of(path) == name == Choice(path=path).name
    assert Choice(path=path, name="mine").name == "mine"
