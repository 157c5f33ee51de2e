"""What is shown of lengths."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from nexus.checking.view import bins, histogram


@given(st.lists(st.integers(1, 5000), max_size=50))
def test_every_document_is_in_one_range(lengths: list[int]) -> None:
    ranges = bins(lengths)
    assert sum(count for *_, count in ranges) == len(lengths)
    assert len(list(histogram(lengths))) == len(ranges) <= 9
