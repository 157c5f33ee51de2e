"""check.json."""

from __future__ import annotations

from pathlib import Path

import pytest

from nexus.errors import UsageError
from nexus.proofs import FILE_NAME, Check, Proof


def test_what_was_written_is_read(tmp_path: Path) -> None:
    good = Proof(group="loss", name="padding changes nothing", outcome="proved", value=1e-7)
    bad = Proof(group="fit", name="it fits", outcome="failed", remedy="Take a smaller model")
    check = Check(proofs=(good, bad), seconds=1.5)
    check.save(tmp_path)
    assert Check.load(tmp_path) == check
    assert check.failures == [bad]


def test_nothing_is_read_where_nothing_was_checked(tmp_path: Path) -> None:
    assert Check.load(tmp_path) is None


@pytest.mark.parametrize("content", ["{", "[1]", '{"proofs": [], "seconds": 1, "colour": 2}'])
def test_a_damaged_file_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / FILE_NAME).write_text(content)
    with pytest.raises(UsageError, match=FILE_NAME):
        Check.load(tmp_path)
