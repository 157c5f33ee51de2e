"""What a run loads before its first step."""

from __future__ import annotations

import pytest
from transformers import GPT2Config, LlamaConfig

from nexus.batch import Batch
from nexus.data.loader import Batches
from nexus.scene import Later, context_limit


class Noted(Batches):
    """Has no batches, and notes which steps it was asked for."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def take(self, step: int) -> list[Batch]:
        self.asked.append(step)
        return []


def test_the_shortest_context_of_all_models_is_the_limit() -> None:
    long, short = LlamaConfig(max_position_embeddings=4096), GPT2Config(n_positions=64)
    assert context_limit([long]) == 4096
    assert context_limit([long, short]) == context_limit([short, long]) == 64
    assert context_limit([]) is None


@pytest.mark.parametrize("skipped", [0, 3])
def test_a_later_stage_goes_on_in_the_data_where_the_earlier_one_stopped(skipped: int) -> None:
    noted = Noted()
    later = Later(noted, skipped)
    for step in range(2):
        later.take(step)
    assert noted.asked == [skipped, skipped + 1]
