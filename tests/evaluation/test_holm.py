"""Holm's correction of a family of comparisons."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus.evaluation.holm import holm


def test_the_smallest_is_multiplied_by_all_and_the_largest_by_one() -> None:
    adjusted = holm({"c": 0.04, "a": 0.01, "d": 0.2, "b": 0.005})
    expected = {"b": 0.02, "a": 0.03, "c": 0.08, "d": 0.2}
    assert list(adjusted) == ["c", "a", "d", "b"]
    assert adjusted == pytest.approx(expected)


def test_none_falls_below_a_smaller_one() -> None:
    assert holm({"a": 0.02, "b": 0.021}) == pytest.approx({"a": 0.04, "b": 0.04})


@given(st.lists(st.floats(0, 1), max_size=20))
def test_order_is_kept_and_nothing_gets_likelier(p_values: list[float]) -> None:
    family = {str(number): value for number, value in enumerate(p_values)}
    adjusted = holm(family)
    assert all(value <= adjusted[name] <= 1 for name, value in family.items())
    by_size = sorted(family, key=lambda name: family[name])
    assert [adjusted[name] for name in by_size] == sorted(adjusted.values())
