"""Merges: how a byte-pair tokenizer comes to each of its tokens, and which others that takes."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from functools import cached_property
from typing import Any

from tokenizers import pre_tokenizers


class Merges:
    """The model of a byte-pair tokenizer, as tokenizer.json has it.

    A token is always built in the same way, whatever stands around it: no merge crosses the ends
    of what becomes one token, so inside them the rule, lowest rank first, does what it does on the
    token alone. Whoever keeps the tokens on that way keeps the encoding.
    """

    def __init__(self, parts: dict[str, Any]) -> None:
        model = parts["model"]
        self.vocabulary: dict[str, int] = model["vocab"]
        self._pairs = [_pair(merge) for merge in model["merges"]]
        self._prefix: str = model.get("continuing_subword_prefix") or ""
        self._suffix: str = model.get("end_of_word_suffix") or ""
        self._byte_fallback = bool(model.get("byte_fallback"))
        self._byte_level = "ByteLevel" in _kinds(parts)

    @cached_property
    def _rank(self) -> dict[tuple[str, str], int]:
        return {pair: rank for rank, pair in reversed(list(enumerate(self._pairs)))}

    @cached_property
    def order(self) -> dict[str, int]:
        """At which merge a token first comes about: a tokenizer learns what is frequent first."""
        return {self._joined(*pair): rank for rank, pair in reversed(list(enumerate(self._pairs)))}

    @property
    def alphabet(self) -> set[str]:
        """The tokens that any text can be written in: bytes, or all characters if it has none."""
        if self._byte_fallback:
            return {f"<0x{byte:02X}>" for byte in range(256)} & self.vocabulary.keys()
        letters = pre_tokenizers.ByteLevel.alphabet() if self._byte_level else None

        def bare(token: str) -> str:
            return token.removeprefix(self._prefix).removesuffix(self._suffix) or token

        return {
            token
            for token in self.vocabulary
            if (len(bare(token)) == 1 and (letters is None or bare(token) in letters))
        }

    def ancestors(self, token: str) -> set[str]:
        """All tokens that are there on the way from single characters to a token, but itself."""
        symbols = [one for one in self._symbols(token) if one in self.vocabulary]
        seen = set(symbols)
        while len(symbols) > 1:
            pairs = list(zip(symbols, symbols[1:], strict=False))
            ranks = [self._rank.get(pair, len(self._pairs)) for pair in pairs]
            at = min(range(len(ranks)), key=ranks.__getitem__)
            if ranks[at] == len(self._pairs):
                break
            symbols[at : at + 2] = [self._joined(*pairs[at])]
            seen.add(symbols[at])
        # Where merges do not lead to it, it is only ever taken whole, and needs nothing else.
        return seen - {token} if symbols == [token] else set()

    def among(self, kept: Collection[str]) -> list[list[str]]:
        """The merges that are possible with some tokens only, in their order."""
        return [
            [left, right]
            for left, right in self._pairs
            if left in kept and right in kept and self._joined(left, right) in kept
        ]

    def _joined(self, left: str, right: str) -> str:
        return left + right[len(self._prefix) :]

    def _symbols(self, token: str) -> Iterator[str]:
        """What a token is before any merge."""
        inner = token.startswith(self._prefix) if self._prefix else False
        last = bool(self._suffix) and token.endswith(self._suffix) and token != self._suffix
        letters = token.removeprefix(self._prefix) if inner else token
        letters = letters.removesuffix(self._suffix) if last else letters
        for place, letter in enumerate(letters):
            before = self._prefix if inner or place else ""
            after = self._suffix if last and place == len(letters) - 1 else ""
            symbol = before + letter + after
            if symbol not in self.vocabulary and self._byte_fallback:
                yield from (f"<0x{byte:02X}>" for byte in letter.encode())
            else:
                yield symbol


def _pair(merge: str | list[str]) -> tuple[str, str]:
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right


def _kinds(part: Any) -> set[str]:
    """The types of all steps of a tokenizer."""
    if isinstance(part, list):
        return set().union(*map(_kinds, part))
    if not isinstance(part, dict):
        return set()
    steps = ("normalizer", "pre_tokenizer", "pretokenizers", "normalizers", "decoder", "decoders")
    own = {part["type"]} if isinstance(part.get("type"), str) else set()
    return own.union(*(_kinds(part[step]) for step in steps if step in part))
