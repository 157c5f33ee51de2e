"""What a run loads before its first step."""

from __future__ import annotations

from transformers import GPT2Config, LlamaConfig

from nexus.scene import context_limit


def test_the_shortest_context_of_all_models_is_the_limit() -> None:
    long, short = LlamaConfig(max_position_embeddings=4096), GPT2Config(n_positions=64)
    assert context_limit([long]) == 4096
    assert context_limit([long, short]) == context_limit([short, long]) == 64
    assert context_limit([]) is None
