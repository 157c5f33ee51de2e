"""How much calibration text a cut needs at the least, whoever gives it."""

from __future__ import annotations

from nexus.errors import UsageError

SEQUENCE = 512
"""Tokens of a row of calibration text, unless the model or the recipe takes fewer."""


def require_sequence(tokens: int, length: int, what: str, otherwise: str = "") -> None:
    """Refuse calibration text that is shorter than one row: it would say nothing of the model.

    Args:
        tokens: how many there are.
        length: of a row.
        what: where they come from.
        otherwise: what else can be done, beginning with a comma.

    Raises:
        UsageError: There are fewer tokens than a row holds.
    """
    if tokens < length:
        raise UsageError(
            f"{what} holds {tokens} tokens, less than one sequence of {length}: give more text"
            f"{otherwise}"
        )
