"""The window of a model: how many positions it takes."""

from __future__ import annotations

from transformers import PreTrainedConfig

AFTER_PADDING = {
    *("camembert", "data2vec-text", "ibert", "longformer", "mpnet", "xmod"),
    *("roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl"),
}
"""Architectures that count positions from the padding token's id on, which takes so many away."""


def context_limit(*configs: PreTrainedConfig) -> int | None:
    """The most positions that all the models take, if any of them has such a limit."""
    limits = [_limit(config.get_text_config()) for config in configs]
    return min((limit for limit in limits if limit), default=None)


def _limit(config: PreTrainedConfig) -> int:
    limit = int(getattr(config, "max_position_embeddings", None) or 0)
    if limit and config.model_type in AFTER_PADDING and config.pad_token_id is not None:
        return limit - int(config.pad_token_id) - 1
    return limit
