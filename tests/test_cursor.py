"""No stage reads a row of another, and a later one goes on where the earlier one stopped."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus.batch import Batch
from nexus.cursor import Later, first_row, skipped_steps
from nexus.data.loader import Batches
from nexus.recipe.load import load
from nexus.recipe.schema import Recipe

CASCADE = runpy.run_path(str(Path(__file__).with_name("cascading.py")))


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    return load(CASCADE["write_workspace"](tmp_path_factory.mktemp("workspace")))


class Noted(Batches):
    """Has no batches, and notes which steps it was asked for."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def take(self, step: int) -> list[Batch]:
        self.asked.append(step)
        return []


@pytest.mark.parametrize("skipped", [0, 3])
def test_a_later_stage_goes_on_in_the_data_where_the_earlier_one_stopped(skipped: int) -> None:
    noted = Noted()
    later = Later(noted, skipped)
    for step in range(2):
        later.take(step)
    assert noted.asked == [skipped, skipped + 1]


@given(sizes=st.lists(st.tuples(st.integers(1, 7), st.integers(1, 5)), min_size=3, max_size=3))
def test_no_stage_reads_a_row_of_another(recipe: Recipe, sizes: list[tuple[int, int]]) -> None:
    """Whatever the sizes of their steps: rows are disjoint, and none but a rest of a step is left
    out."""
    length = recipe.data.sequence_length
    stages = tuple(
        stage.model_copy(
            update={
                "train": stage.train.model_copy(
                    update={"tokens_per_step": rows * length, "steps": steps}
                )
            }
        )
        for stage, (rows, steps) in zip(recipe.stages, sizes, strict=True)
    )
    sized, end = recipe.model_copy(update={"stages": stages}), 0
    for number, (rows, steps) in enumerate(sizes):
        begin = first_row(sized, number)
        assert begin == skipped_steps(sized, number) * rows
        assert end <= begin < end + rows
        end = begin + rows * steps
