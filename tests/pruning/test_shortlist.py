"""A shortlist begins with the best guess, holds to the target, and its shapes really differ."""

from __future__ import annotations

import runpy
from dataclasses import asdict
from pathlib import Path

import pytest

from nexus.errors import UsageError
from nexus.pruning.families import family_of
from nexus.pruning.search import TOLERANCE, default_shape
from nexus.pruning.shortlist import shortlist
from nexus.pruning.sizes import parameters

SEARCHING = runpy.run_path(str(Path(__file__).with_name("test_search.py")))
SMOL = SEARCHING["SMOL"]


@pytest.mark.parametrize("target", [1.01e8, 5e7])
def test_each_differs_from_all_before(target: float) -> None:
    family = family_of(SMOL)
    found = shortlist(SMOL, family, 8, target=target)
    assert found[0] == default_shape(SMOL, family, target=target)
    assert len(found) == 8
    for number, sizes in enumerate(found):
        assert abs(parameters(SMOL, family, sizes) / target - 1) <= TOLERANCE
        for other in found[:number]:
            ratios = [
                asdict(sizes)[axis] / asdict(other)[axis]
                for axis in ("layers", "neurons", "hidden")
            ]
            assert max(max(ratio, 1 / ratio) for ratio in ratios) > 1.03
    assert len({sizes.layers for sizes in found}) >= 5


def test_where_there_is_one_shape_there_is_one() -> None:
    family = family_of(SMOL)
    found = shortlist(SMOL, family, 8, target=134_515_008)
    assert found[0].neurons == 1536 and found[0].layers == 30
    only = shortlist(SMOL, family, 8, target=9.91e7, axes=("layers",))
    assert [sizes.layers for sizes in only] == [20]
    with pytest.raises(UsageError, match="nearest"):
        shortlist(SMOL, family, 8, target=1e6)
