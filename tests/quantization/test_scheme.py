"""What a scheme can be, and what it comes to."""

from __future__ import annotations

import pytest

from nexus.errors import UsageError
from nexus.quantization.scheme import Scheme, scheme_of


def test_few_bits_share_scales_in_groups_and_eight_in_rows() -> None:
    assert scheme_of(8).group is None and scheme_of(4).group == scheme_of(3).group == 64
    assert scheme_of(4, group_size="row").group is None
    assert scheme_of(4, group_size="32") == scheme_of(scheme="int4", group_size=32)
    assert (scheme_of(3).bits, scheme_of(scheme="int8_dynamic").bits) == (3, 8)


def test_scales_cost_bits() -> None:
    assert scheme_of(4, group_size=32).bits_per_weight() == 4.5
    assert scheme_of(4, group_size=64).bits_per_weight() == 4.25
    assert scheme_of(4, group_size=64).bits_per_weight(32) == 4.5
    assert scheme_of(4, group_size=32, symmetric=False).bits_per_weight() == 4 + (16 + 4) / 32
    assert scheme_of(8).bits_per_weight() == 8


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"bits": 5}, "choose 8, 4, 3"),
        ({}, "either bits"),
        ({"bits": 4, "scheme": "int4"}, "not both"),
        ({"scheme": "int5"}, "did you mean"),
        ({"bits": 4, "group_size": "rows"}, "give a number, or row"),
        ({"bits": 4, "group_size": 0}, "group_size"),
        ({"scheme": "int8_dynamic", "group_size": 32}, "take int8"),
        ({"scheme": "int8_dynamic", "symmetric": False}, "take int8"),
    ],
)
def test_what_is_no_scheme_is_one_line(asked: dict[str, int], said: str) -> None:
    with pytest.raises(UsageError, match=said) as refusal:
        scheme_of(**asked)  # type: ignore[arg-type]
    assert "\n" not in str(refusal.value)


def test_a_recipe_is_refused_alike() -> None:
    with pytest.raises(UsageError, match="take int8"):
        Scheme.parse({"scheme": "int8_dynamic", "group_size": 32})
