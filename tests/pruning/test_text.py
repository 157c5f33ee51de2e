"""Text that is too short to say anything of a model is refused."""

from __future__ import annotations

import pytest

from nexus.errors import UsageError
from nexus.pruning.text import require_sequence


def test_less_than_a_row_is_refused_in_one_sentence() -> None:
    require_sequence(8, 8, "the text")
    with pytest.raises(UsageError) as refused:
        require_sequence(7, 8, "the text", ", or none")
    assert str(refused.value) == (
        "the text holds 7 tokens, less than one sequence of 8: give more text, or none"
    )
