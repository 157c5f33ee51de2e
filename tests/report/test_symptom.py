from __future__ import annotations

import pytest

from nexus.report.symptom import Symptom


@pytest.mark.parametrize(("weight", "sign"), [("serious", "!"), ("notable", "→")])
def test_weights_have_signs(weight: str, sign: str) -> None:
    assert Symptom(weight, "", "", "", "").sign == sign  # type: ignore[arg-type]
