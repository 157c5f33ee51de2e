from __future__ import annotations

import json
from pathlib import Path

import pytest

from nexus.data.faults import MOST_CHARACTERS, MOST_LISTED, Fault, Faults, printable, unclean
from nexus.data.rejected import Rejected
from nexus.errors import UsageError


def test_error_names_place_reason_and_remedy() -> None:
    faults = Faults()
    faults.add("a.jsonl:7", "the line is blank")
    with pytest.raises(UsageError) as caught:
        faults.settle("a.jsonl", 9)
    for part in ("a.jsonl:7: the line is blank", "Correct the row", "data.on_bad_row: skip"):
        assert part in str(caught.value)


def test_error_lists_the_first_twenty_and_counts_all() -> None:
    faults = Faults()
    for number in range(37):
        faults.add(f"a.jsonl:{number}:2", f"reason {number}")
    with pytest.raises(UsageError) as caught:
        faults.settle("a.jsonl", 50_000)
    lines = str(caught.value).splitlines()
    assert lines[0] == "a.jsonl: 37 of 50,000 rows cannot be used, the first of them:"
    assert lines[1:-1] == [f"  a.jsonl:{n}:2: reason {n}" for n in range(MOST_LISTED)]
    assert MOST_LISTED == 20
    assert "data.on_bad_row: skip" in lines[-1] and "rejected.jsonl" in lines[-1]


def test_rows_are_listed_in_their_order_whoever_found_them() -> None:
    faults = Faults()
    for number in (9, 10, 100, 11, 2, *range(200, 300)):
        faults.add(f"a.jsonl:{number}:1", "bad")
    places = [fault.place for fault in faults.listed]
    assert places[:6] == [f"a.jsonl:{number}:1" for number in (2, 9, 10, 11, 100, 200)]
    assert len(places) == MOST_LISTED


def test_without_faults_nothing_is_raised() -> None:
    Faults().settle("a", 3)


def test_skip_counts_all_lists_the_first_and_writes_all(tmp_path: Path) -> None:
    rejected = Rejected(tmp_path / "rejected.jsonl")
    faults = Faults("skip", rejected=rejected)
    for number in range(MOST_LISTED + 5):
        faults.add(f"a[{number}]", "bad", {"number": number})
    faults.settle("a")
    rejected.finish()
    assert faults.count == MOST_LISTED + 5
    assert faults.listed == [Fault(f"a[{n}]", "bad") for n in range(MOST_LISTED)]
    lines = (tmp_path / "rejected.jsonl").read_text().splitlines()
    assert [json.loads(line)["place"] for line in lines] == [f"a[{n}]" for n in range(25)]


def test_another_pass_counts_anew_and_writes_nothing_twice(tmp_path: Path) -> None:
    rejected = Rejected(tmp_path / "rejected.jsonl")
    faults = Faults("skip", rejected=rejected)
    for rows in (3, 2, 5):
        faults.begin()
        for number in range(rows):
            faults.add(f"a[{number}]", "bad")
        assert faults.count == rows
    rejected.finish()
    assert len((tmp_path / "rejected.jsonl").read_text().splitlines()) == 5


def test_a_stream_of_bad_rows_ends_though_the_stream_does_not() -> None:
    faults = Faults(streamed=True)
    for number in range(MOST_LISTED - 1):
        faults.add(f"a[{number}]", "bad")
    with pytest.raises(UsageError, match="20 rows cannot be used"):
        faults.add("a[19]", "bad")


def test_what_is_said_of_a_row_cannot_steer_a_terminal() -> None:
    faults = Faults("skip")
    faults.add("a\x1b[2J:1", "the key '\x9b31m\u202e\n' is " + "long " * 1000)
    ((place, reason),) = faults.listed
    assert place == "a\\x1b[2J:1"
    assert reason.startswith("the key '\\x9b31m\\u202e\\n' is long")
    assert reason.isprintable() and len(reason) < MOST_CHARACTERS + 100


def test_printable_text_stays_as_it_is() -> None:
    assert printable("naïve 日本 🚀") == "naïve 日本 🚀"
    assert printable("\ud800") == "\\ud800"


@pytest.mark.parametrize(("text", "fragment"), [("a\x00", "NUL"), ("é\ud800", "surrogate")])
def test_unclean_text(text: str, fragment: str) -> None:
    assert fragment in (unclean(text) or "")


@pytest.mark.parametrize("text", ["", "plain", "é", "😀", "\ufeff"])
def test_clean_text(text: str) -> None:
    assert unclean(text) is None
