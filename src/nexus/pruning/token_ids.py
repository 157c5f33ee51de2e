"""The ids of tokens that a configuration names, carried over to a smaller vocabulary."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from transformers import GenerationConfig, PreTrainedConfig

_OTHERS = ("suppress_tokens", "begin_suppress_tokens", "bad_words_ids", "force_words_ids")
"""Names of ids that do not end in `token_id`."""

_BIASES = "sequence_bias"
"""Pairs of a sequence and a number, or the numbers by their sequences."""

Ids = Any
"""An id, or lists of ids, nested as configurations have them."""


def named_ids(config: PreTrainedConfig | GenerationConfig) -> set[int]:
    """All ids of tokens that a configuration names: those that begin and end a text, and others."""
    found = {one for _, value, _ in _fields(config) for one in _flat(value)}
    return found.union(*(_flat(ids) for ids, _ in _biases(config)))


def renumber(config: PreTrainedConfig | GenerationConfig, places: Mapping[int, int]) -> None:
    """Give every id that a configuration names its new number.

    One that has none is taken out. Where ids stand for a sequence (words that are never written, or
    have to be, or a bias for them), that is the whole sequence: the rest would be another one.

    Args:
        config: is changed in place.
        places: the new id of every token that is kept, by its old one.
    """
    for name, value, part in list(_fields(config)):
        setattr(part, name, _moved(value, places))
    if biases := _biases(config):
        moved = [[_moved(ids, places, True), bias] for ids, bias in biases]
        setattr(config, _BIASES, [pair for pair in moved if pair[0] is not None] or None)


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


def _biases(config: PreTrainedConfig | GenerationConfig) -> list[tuple[Ids, float]]:
    given = vars(config).get(_BIASES) or ()
    pairs = given.items() if isinstance(given, Mapping) else given
    return [(ids, bias) for ids, bias in pairs]


def _moved(value: Ids, places: Mapping[int, int], sequence: bool = False) -> Ids:
    """The same with new numbers; nothing if nothing is left, or not all of a sequence."""
    if not isinstance(value, list | tuple):
        return value if value < 0 else places.get(value)
    moved = [_moved(one, places, isinstance(one, list | tuple)) for one in value]
    left = [one for one in moved if one is not None]
    of_ids = not any(isinstance(one, list | tuple) for one in value)
    return None if not left or (sequence and of_ids and len(left) < len(value)) else left
