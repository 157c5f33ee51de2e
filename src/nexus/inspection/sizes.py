"""Whether the sizes of a configuration are those of a model, of this one, and of this world."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nexus.errors import UsageError
from nexus.inspection.tensors import Tensors

LIMITS = {
    **dict.fromkeys(
        ("num_hidden_layers", "num_layers", "n_layer", "n_layers", "block_count"), 10**4
    ),
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "dim", "embedding_length"), 10**6),
    **dict.fromkeys(("vocab_size", "n_vocab"), 10**8),
    **dict.fromkeys(
        ("intermediate_size", "ffn_dim", "d_ff", "n_inner", "feed_forward_length"), 10**7
    ),
    **dict.fromkeys(("num_attention_heads", "num_key_value_heads", "n_head", "head_dim"), 10**5),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 10**5),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "context_length"), 10**9),
}
"""Far more than any model has, by the names that configurations and GGUF files use."""

MOST_MEMORIES = 16
"""Weights may need so many times this machine's memory in float32 before they count as absurd."""

_BITS_A_PACKED_NUMBER = 8
"""Quantised weights put up to so many numbers into one."""


def check_sizes(path: Path, config: Mapping[str, Any], weights: Tensors | None) -> None:
    """Compare what a configuration says with limits, with its weights and with this machine.

    Args:
        path: Where it was read, for messages.
        config: Names and values, as deep as they may be.
        weights: What lies beside it; nothing if no weights are needed.

    Raises:
        UsageError: Naming the file, the setting and its value.
    """
    for name, value in _numbers(config):
        limit = LIMITS.get(name)
        if limit is not None and not 0 <= value <= limit:
            raise _absurd(path, f"{name} is {value:,}, outside 0 to {limit:,}")
    sizes = dict(_numbers(config))
    layers, hidden = _first(sizes, "num_hidden_layers"), _first(sizes, "hidden_size")
    embedding = _first(sizes, "vocab_size") * hidden
    if weights is not None and weights.count:
        if layers > 4 * weights.count:
            raise _absurd(
                path,
                f"it has {layers:,} layers, but the weights beside it {weights.count:,} tensors",
            )
        if embedding > _BITS_A_PACKED_NUMBER * weights.numbers:
            raise _absurd(
                path,
                f"vocab_size × hidden_size is {embedding:,} numbers, but the weights beside it "
                f"hold {weights.numbers:,}",
            )
    inner = _first(sizes, "intermediate_size")
    numbers = weights.numbers if weights else embedding + layers * hidden * (hidden + 2 * inner)
    if (needed := 4 * numbers) > (most := MOST_MEMORIES * memory_bytes()):
        raise _absurd(
            path,
            f"its weights need {needed:,} bytes in float32, and this machine could not hold them "
            f"if it had {MOST_MEMORIES} times its memory ({most:,} bytes)",
        )


def memory_bytes() -> int:
    """This machine's memory."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _first(sizes: Mapping[str, int], name: str) -> int:
    """The size of that name, or of one that means the same, if there is one."""
    limit = LIMITS[name]
    alike = [other for other, its in LIMITS.items() if its == limit and other in sizes]
    return sizes[alike[0]] if alike else 0


def _numbers(values: Mapping[str, Any]) -> list[tuple[str, int]]:
    """Every whole number by the last part of its name, those inside of parts after the others."""
    found = [
        (name.rpartition(".")[2], value) for name, value in values.items() if type(value) is int
    ]
    for value in values.values():
        if isinstance(value, Mapping):
            found += [pair for pair in _numbers(value) if pair[0] not in dict(found)]
    return found


def _absurd(path: Path, what: str) -> UsageError:
    return UsageError(f"{path} is refused: {what}. Restore it, or name another model.")
