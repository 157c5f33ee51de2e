"""What a comparison says of two models, as JSON and back."""

from __future__ import annotations

import json
from typing import Any

import pytest

from nexus.contrasts import Contrasts
from nexus.errors import UsageError


def said(**row: Any) -> dict[str, Any]:
    share = {"value": 0.5, "n": 8, "unit": "share"}
    subject = {"name": "one", "fingerprint": "0f", "dtype": "float32"}
    whole = {
        "measure": "agreement", "higher_is_better": True, "first": share, "second": share,
        "difference": share, "p_value": 1.0, "adjusted_p_value": 1.0, "detectable": None,
        "verdict": "none detected", **row,
    }  # fmt: skip
    return {"first": subject, "second": subject, "rows": [whole]}


def test_it_is_read_as_it_was_written() -> None:
    found = Contrasts.parse(said(), where="contrasts.json")
    assert Contrasts.parse(json.loads(found.model_dump_json()), where="contrasts.json") == found
    assert found.rows[0].detectable is None


def test_there_is_no_other_verdict() -> None:
    with pytest.raises(UsageError, match="verdict"):
        Contrasts.parse(said(verdict="both"), where="contrasts.json")
