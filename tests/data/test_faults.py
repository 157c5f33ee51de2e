from __future__ import annotations

import pytest

from nexus.data.faults import MOST_LISTED, Fault, Faults, unclean
from nexus.errors import UsageError


def test_error_names_place_reason_and_remedy() -> None:
    with pytest.raises(UsageError) as caught:
        Faults().add("a.jsonl:7", "the line is blank")
    for part in ("a.jsonl:7", "the line is blank", "data.on_bad_row: skip"):
        assert part in str(caught.value)


def test_skip_counts_all_and_lists_the_first() -> None:
    faults = Faults("skip")
    for number in range(MOST_LISTED + 5):
        faults.add(f"a[{number}]", "bad")
    assert faults.count == MOST_LISTED + 5
    assert faults.listed == [Fault(f"a[{n}]", "bad") for n in range(MOST_LISTED)]


@pytest.mark.parametrize(("text", "fragment"), [("a\x00", "NUL"), ("é\ud800", "surrogate")])
def test_unclean_text(text: str, fragment: str) -> None:
    assert fragment in (unclean(text) or "")


@pytest.mark.parametrize("text", ["", "plain", "é", "😀", "\ufeff"])
def test_clean_text(text: str) -> None:
    assert unclean(text) is None
