"""What is accepted is what the safetensors library reads, with the same names and shapes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from nexus.errors import UsageError
from nexus.inspection.safetensors_header import declared, read_header
from nexus.inspection.tensors import Tensors

WEIGHTS = {
    "a": torch.zeros(2, 3),
    "b": torch.zeros(5, dtype=torch.bfloat16),
    "c": torch.zeros(0, 4, dtype=torch.int8),
    "d": torch.zeros((), dtype=torch.bool),
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    save_file(WEIGHTS, path, metadata={"format": "pt"})
    return path


def test_a_sound_file_is_summed_up(sound: Path) -> None:
    header = read_header(sound)
    assert {name: entry["shape"] for name, entry in header.items()} == {
        name: list(weight.shape) for name, weight in WEIGHTS.items()
    }
    assert declared(sound) == Tensors(4, 6 + 5 + 0 + 1)


@given(
    at=st.integers(0, 399),
    flip=st.integers(1, 255),
    cut=st.integers(0, 30),
    more=st.binary(max_size=9),
)
def test_nothing_is_accepted_that_the_library_refuses(
    sound: Path, at: int, flip: int, cut: int, more: bytes
) -> None:
    content = bytearray(sound.read_bytes())
    content[at % len(content)] ^= flip
    path = sound.with_name("spoilt.safetensors")
    path.write_bytes(bytes(content[: len(content) - cut]) + more)
    try:
        header = read_header(path)
    except UsageError as refusal:
        assert str(path) in str(refusal)
        return
    try:
        with safe_open(path, "pt") as file:
            assert set(file.keys()) == set(header)
    except SafetensorError as error:
        assert "metadata" in str(error).lower() or "utf" in str(error).lower()
