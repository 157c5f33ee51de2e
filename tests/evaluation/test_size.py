from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from nexus.evaluation.size import bytes_on_disk, size

EMBEDDING = 100 * 32
LAYER = 32 * 32 * 2 + 32 * 16 * 2 + 3 * 32 * 48 + 2 * 32
FINAL_NORM = 32


@pytest.mark.parametrize(("tied", "tables"), [(True, 1), (False, 2)])
def test_parameters_are_counted_once_each(tiny_model: Any, tied: bool, tables: int) -> None:
    found = size(tiny_model(layers=3, tied=tied))
    assert found.parameters_without_embeddings == 3 * LAYER + FINAL_NORM
    assert found.parameters == 3 * LAYER + FINAL_NORM + tables * EMBEDDING
    assert (found.dtype, found.bytes_on_disk) == ("float32", None)


def test_bytes_on_disk_are_those_of_all_files(tiny_model: Any, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_bytes(bytes(1000))
    for none_of_the_model in ("README.md", ".tmp-README.md", ".gitattributes"):
        (tmp_path / "model" / none_of_the_model).write_text("a card, or half of one")
    (tmp_path / "blob").write_bytes(bytes(23))
    (tmp_path / "model" / "config").symlink_to(tmp_path / "blob")
    assert bytes_on_disk(tmp_path / "model") == 1023
    assert size(tiny_model(), tmp_path / "model").bytes_on_disk == 1023


def test_the_type_is_that_of_the_files_where_there_are_any(tiny_model: Any, tmp_path: Path) -> None:
    model = tiny_model()
    assert size(model.to(torch.bfloat16)).dtype == "bfloat16"
    model.save_pretrained(tmp_path)
    assert size(model.to(torch.float32), tmp_path).dtype == "bfloat16"
