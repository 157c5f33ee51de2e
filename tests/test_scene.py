"""What a run loads before its first step."""

from __future__ import annotations

import pytest
from transformers import GPT2Config, LlamaConfig

from nexus.batch import Batch
from nexus.scene import Later, context_limit


class Numbered:
    """Step k's batches are the number k, so that a test sees which step was asked for."""

    def take(self, step: int) -> list[Batch]:
        return [step]  # type: ignore[list-item]


def test_the_shortest_context_of_all_models_is_the_limit() -> None:
    long, short = LlamaConfig(max_position_embeddings=4096), GPT2Config(n_positions=64)
    assert context_limit([long]) == 4096
    assert context_limit([long, short]) == context_limit([short, long]) == 64
    assert context_limit([]) is None


@pytest.mark.parametrize("skipped", [0, 3])
def test_a_later_stage_goes_on_in_the_data_where_the_earlier_one_stopped(skipped: int) -> None:
    later = Later(Numbered(), skipped)  # type: ignore[arg-type]
    assert [later.take(step) for step in range(2)] == [[skipped], [skipped + 1]]
