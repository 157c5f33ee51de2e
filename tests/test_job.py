"""What becomes of a job of several processes, by their exit codes."""

from __future__ import annotations

import signal

import pytest

from nexus.job import verdict
from nexus.supervise import FATAL


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        ([2, -signal.SIGTERM], 2),
        ([75, 2], 2),
        ([1, 75], 1),
        ([1, -signal.SIGKILL], 1),
        ([2, 1], 2),
        ([-signal.SIGKILL, 75], FATAL + signal.SIGKILL),
        ([-signal.SIGSEGV, -signal.SIGTERM], FATAL + signal.SIGSEGV),
        ([75, 75], 75),
        ([75, -signal.SIGTERM], 75),
        ([-signal.SIGTERM], 75),
    ],
)
def test_what_one_process_knows_outweighs_what_the_others_suffer(
    codes: list[int], expected: int
) -> None:
    """A mistake or a finding would be the same again; a death would not."""
    assert verdict(codes) == expected
    assert verdict(reversed(codes)) == expected
