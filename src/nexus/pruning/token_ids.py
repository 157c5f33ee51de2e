"""The ids of tokens that a configuration names, carried over to a smaller vocabulary."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from transformers import GenerationConfig, PreTrainedConfig

_OTHERS = ("suppress_tokens", "begin_suppress_tokens", "bad_words_ids", "force_words_ids")
"""Names of ids that do not end in `token_id`."""

Ids = Any
"""An id, or lists of ids, nested as configurations have them."""


def named_ids(config: PreTrainedConfig | GenerationConfig) -> set[int]:
    """All ids of tokens that a configuration names: those that begin and end a text, and others."""
    return {one for _, value, _ in _fields(config) for one in _flat(value)}


def renumber(config: PreTrainedConfig | GenerationConfig, places: Mapping[int, int]) -> None:
    """Give every id that a configuration names its new number.

    One that has none, since it named a row that no token had, is taken out.

    Args:
        config: is changed in place.
        places: the new id of every token that is kept, by its old one.
    """
    for name, value, part in list(_fields(config)):
        setattr(part, name, _moved(value, places))


def _fields(config: PreTrainedConfig | GenerationConfig) -> Iterator[tuple[str, Ids, Any]]:
    parts: list[Any] = [config]
    if isinstance(config, PreTrainedConfig) and (text := config.get_text_config()) is not config:
        parts.append(text)
    for part in parts:
        for name, value in list(vars(part).items()):
            named = name.endswith(("token_id", "token_ids")) or name in _OTHERS
            if named and isinstance(value, int | list | tuple):
                yield name, value, part


def _flat(value: Ids) -> Iterator[int]:
    if isinstance(value, list | tuple):
        for one in value:
            yield from _flat(one)
    elif isinstance(value, int) and value >= 0:
        yield value


def _moved(value: Ids, places: Mapping[int, int]) -> Ids:
    if isinstance(value, list | tuple):
        moved = [_moved(one, places) for one in value]
        return [one for one in moved if one is not None]
    return value if value < 0 else places.get(value)
