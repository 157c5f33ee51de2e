"""What several files declare is added up."""

from __future__ import annotations

from nexus.inspection.tensors import Tensors


def test_shards_add_up() -> None:
    assert Tensors.total([Tensors(2, 10), Tensors(3, 7)]) == Tensors(5, 17)
    assert Tensors.total([]) == Tensors(0, 0)
