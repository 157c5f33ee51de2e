"""The sum of objectives: which terms count at a step, and what they need of a teacher."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from nexus.errors import UsageError
from nexus.objectives.output import Output
from nexus.objectives.task import Task
from nexus.objectives.weighted_sum import AnyObjective, WeightedSum, needs_of
from nexus.schedule import Linear
from nexus.signals import Signal

DISTRIBUTION = Signal.DISTRIBUTION
WHOLE = Signal.DISTRIBUTION | Signal.FULL_VOCABULARY


def test_it_needs_what_its_terms_need_and_nothing_for_terms_of_weight_zero() -> None:
    assert WeightedSum((Task(),)).needs == Signal.NONE
    assert WeightedSum((Task(), Output())).needs == DISTRIBUTION
    assert WeightedSum((Output(divergence="logit_mse"),)).needs == WHOLE
    assert WeightedSum((Task(), Output(weight=0))).needs == Signal.NONE
    assert needs_of([]) == Signal.NONE


def test_a_teacher_that_provides_too_little_is_named_with_what_is_missing() -> None:
    terms = WeightedSum((Output(name="soft", divergence="logit_mse"),))
    terms.require(WHOLE, "local")
    with pytest.raises(UsageError, match=r"'soft'(.|\n)*FULL_VOCABULARY(.|\n)*'server'"):
        terms.require(DISTRIBUTION, "server")


def test_a_term_of_weight_zero_asks_for_nothing() -> None:
    WeightedSum((Task(), Output(weight=0, divergence="logit_mse"))).require(Signal.NONE, "text")


@given(step=st.integers(0, 99))
def test_weights_are_a_function_of_the_step(step: int) -> None:
    alpha = Linear(start=0.0, end=1.0)
    terms = WeightedSum((Task(weight=alpha), Output(weight=0.5)))
    task, output = terms.weights(step, 100)
    assert task == pytest.approx(step / 99)
    assert output == 0.5
    assert terms.weights(step, 100) == (task, output)


def test_a_step_that_has_nothing_to_learn_from_is_found_before_the_run() -> None:
    fading = WeightedSum((Task(weight=Linear(start=1.0, end=0.0)),))
    assert fading.weights(0, 10) == (1.0,)
    with pytest.raises(UsageError, match="weight 0 at step 9"):
        fading.rehearse(10)
    WeightedSum((Task(weight=Linear(start=1.0, end=0.1)),)).rehearse(10)


def test_terms_are_told_apart_by_name() -> None:
    with pytest.raises(UsageError, match="'output'"):
        WeightedSum((Output(), Output(temperature=2.0)))
    WeightedSum((Output(), Output(name="soft", temperature=2.0)))
    with pytest.raises(UsageError, match="empty"):
        WeightedSum(())


@pytest.mark.parametrize(
    ("values", "kind"), [({"kind": "task"}, Task), ({"kind": "output", "beta": None}, Output)]
)
def test_the_union_reads_every_kind(values: dict[str, Any], kind: type) -> None:
    assert type(TypeAdapter(AnyObjective).validate_python(values)) is kind


def test_the_union_knows_no_other_kind() -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(AnyObjective).validate_python({"kind": "outputs"})
