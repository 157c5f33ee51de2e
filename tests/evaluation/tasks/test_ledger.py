"""The ledger keeps every item that was scored, whatever became of the process or of the file."""

from __future__ import annotations

from pathlib import Path

import pytest

from nexus.evaluation.tasks.ledger import Ledger
from nexus.evaluation.tasks.task import Item, Scored

ITEMS = [Item(f"k{n}", "P", ("a", "b")) for n in range(3)]
SCORED = {item.key: Scored({"accuracy": n / 2}, n != 1, {"x": n}) for n, item in enumerate(ITEMS)}


def kept(path: Path, of: str = "m") -> list[Scored | None]:
    ledger = Ledger(path, of)
    return [ledger.known(item) for item in ITEMS]


def test_what_was_added_is_known_at_once_and_to_the_next(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "ledger.jsonl"
    ledger = Ledger(path, "m")
    assert ledger.known(ITEMS[0]) is None
    ledger.add(ITEMS, SCORED)
    assert [ledger.known(item) for item in ITEMS] == list(SCORED.values()) == kept(path)


def test_models_wordings_and_items_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    Ledger(path, "m").add(ITEMS, SCORED)
    assert kept(path, "other") == [None] * 3
    for changed in (Item("k0", "P!", ("a", "b")), Item("k0", "P", ("a", "b"), 1)):
        assert Ledger(path, "m").known(changed) is None
    Ledger(path, "other").add(ITEMS[:1], {"k0": Scored({"accuracy": 0.25})})
    assert kept(path) == list(SCORED.values())


def test_wherever_a_write_was_cut_off_whole_lines_are_kept_and_the_rest_is_written_anew(
    tmp_path: Path,
) -> None:
    path = tmp_path / "ledger.jsonl"
    Ledger(path, "m").add(ITEMS, SCORED)
    whole = path.read_bytes()
    ends = [n + 1 for n, byte in enumerate(whole) if byte == ord("\n")]
    for length in sorted({0, *range(5, len(whole), 61), *ends, *(end - 1 for end in ends)}):
        path.write_bytes(whole[:length])
        complete = whole[:length].count(b"\n")
        expected = list(SCORED.values())[:complete]
        assert kept(path) == expected + [None] * (3 - complete)
        rest = dict(list(SCORED.items())[complete:])
        Ledger(path, "m").add(ITEMS, rest)
        assert path.read_bytes() == whole


@pytest.mark.parametrize("damage", [b"\0" * 40, b"{}", b"[1]", b'{"of": "m"}', b"\xff", b""])
def test_a_damaged_line_costs_only_its_item(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "ledger.jsonl"
    Ledger(path, "m").add(ITEMS, SCORED)
    lines = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([lines[0], damage, lines[2], b""]))
    assert kept(path) == [SCORED["k0"], None, SCORED["k2"]]
