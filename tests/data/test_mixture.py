from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus.data.mixture import Mixture, Schedule
from nexus.errors import UsageError

weight_lists = st.lists(st.integers(0, 40), min_size=1, max_size=7).filter(any)


@given(weights=weight_lists, turns=st.integers(1, 300))
def test_every_share_is_within_one_turn_at_any_time(weights: list[int], turns: int) -> None:
    schedule = Schedule(weights)
    total = sum(weights)
    drawn = [0] * len(weights)
    for turn in range(turns):
        member, ordinal = schedule[turn]
        assert ordinal == drawn[member]
        drawn[member] += 1
        for weight, count in zip(weights, drawn, strict=True):
            assert abs(count - weight * (turn + 1) / total) < 1
    assert all(count == 0 for weight, count in zip(weights, drawn, strict=True) if weight == 0)


@given(weights=weight_lists, turn=st.integers(0, 10**12))
def test_turns_far_away_cost_nothing_and_repeat(weights: list[int], turn: int) -> None:
    schedule = Schedule(weights)
    member, ordinal = schedule[turn]
    again = schedule[turn + sum(weights)]
    assert again == (member, ordinal + weights[member])


@pytest.mark.parametrize("weights", [[0, 0], [1, -1]])
def test_impossible_weights(weights: list[int]) -> None:
    with pytest.raises(ValueError, match="at least 0 and not all 0"):
        Schedule(weights)


def test_an_epoch_is_a_permutation_and_the_next_another() -> None:
    mixture = Mixture({"a": 50}, {}, seed=3)
    first, second = ([mixture[e * 50 + j][1] for j in range(50)] for e in range(2))
    assert sorted(first) == sorted(second) == list(range(50))
    assert first != second and first != list(range(50))


def test_row_j_is_a_pure_function() -> None:
    sizes, weights = {"a": 7, "b": 5}, {"a": 0.3, "b": 0.7}
    forwards = Mixture(sizes, weights, seed=1)
    backwards = Mixture(sizes, weights, seed=1)
    rows = [forwards[j] for j in range(200)]
    assert [backwards[j] for j in reversed(range(200))] == rows[::-1]
    assert [Mixture(sizes, weights, seed=2)[j] for j in range(200)] != rows


def test_the_shuffle_is_the_same_on_every_machine() -> None:
    mixture = Mixture({"a": 8}, {}, seed=0)
    assert [mixture[j][1] for j in range(8)] == SEED_0_EPOCH_0


# Frozen: a run must be resumable after an update of numpy, or of this code.
SEED_0_EPOCH_0 = [6, 1, 2, 5, 4, 7, 3, 0]


def test_a_task_s_order_does_not_depend_on_the_others() -> None:
    alone = Mixture({"a": 20}, {}, seed=0)
    beside = Mixture({"b": 4, "a": 20}, {"a": 1.0, "b": 1.0}, seed=0)
    order = [number for task, number in (beside[j] for j in range(40)) if task == "a"]
    assert order == [alone[j][1] for j in range(20)]


def test_without_weights_all_tasks_end_an_epoch_together() -> None:
    mixture = Mixture({"a": 6, "b": 3, "c": 1}, {}, seed=0)
    assert Counter(mixture[j] for j in range(10)) == Counter(
        [("a", n) for n in range(6)] + [("b", n) for n in range(3)] + [("c", 0)]
    )


def test_a_stream_counts_up() -> None:
    mixture = Mixture({"a": None}, {}, seed=0)
    assert [mixture[j] for j in range(3)] == [("a", 0), ("a", 1), ("a", 2)]


def test_weights_that_no_binary_fraction_can_hold() -> None:
    mixture = Mixture({"a": 1, "b": 1, "c": 1}, {"a": 0.5, "b": 0.3, "c": 0.2}, seed=0)
    counts = Counter(mixture[j][0] for j in range(1000))
    assert counts == {"a": 500, "b": 300, "c": 200}


@pytest.mark.parametrize(
    ("weights", "fragments"),
    [
        ({"maths": 1.0}, ("'maths'", "did you mean 'math'?")),
        ({"math": 1.0}, ("no weight for the task 'code'", "0 leaves it out")),
        ({"math": 1.0, "code": -1.0}, ("data.weights.code is -1.0", "at least 0")),
        ({"math": 0.0, "code": 0.0}, ("all zero", "Give one")),
    ],
)
def test_wrong_weights_are_named(weights: dict[str, float], fragments: tuple[str, ...]) -> None:
    with pytest.raises(UsageError) as caught:
        Mixture({"math": 3, "code": 3}, weights, seed=0)
    for fragment in fragments:
        assert fragment in str(caught.value)


def test_streams_beside_others_need_weights() -> None:
    with pytest.raises(UsageError, match=r"data.weights is missing.*'web'"):
        Mixture({"math": 3, "web": None}, {}, seed=0)
