from __future__ import annotations

import pytest

from nexus.errors import Interrupted, NexusError, UsageError


@pytest.mark.parametrize("error, code", [(NexusError, 1), (UsageError, 2), (Interrupted, 75)])
def test_each_failure_has_its_exit_code_and_can_be_caught_as_one(
    error: type[NexusError], code: int
) -> None:
    assert error.exit_code == code
    with pytest.raises(NexusError, match="^message$"):
        raise error("message")
