"""Codes in words: the layout that others read, and back."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nexus.quantization import packing
from nexus.quantization.packing import pack, unpack


def some_codes(seed: int, rows: int, columns: int, bits: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    half = 1 << (bits - 1)
    return torch.randint(-half, half, (rows, columns), generator=generator).to(torch.int8)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 9**6), st.integers(1, 4), st.integers(1, 70), st.sampled_from([2, 3, 4, 8]))
def test_what_is_packed_comes_back_in_as_few_words_as_can_be(
    seed: int, rows: int, columns: int, bits: int
) -> None:
    codes = some_codes(seed, rows, columns, bits)
    words = pack(codes, bits)
    assert words.dtype == torch.int32 and words.shape == (rows, -(-columns * bits // 32))
    assert torch.equal(unpack(words, bits, columns), codes)


@pytest.mark.parametrize("bits", [3, 4, 8])
def test_a_single_column_of_words_that_was_turned(bits: int) -> None:
    """As zeros are loaded of a layer with few outputs: contiguous by name, and not from word to
    word. To see it fail: view the words of `contiguous()`."""
    codes = some_codes(2, 5, 32 // bits, bits)
    turned = pack(codes, bits).T.contiguous().T
    assert turned.shape == (5, 1)
    strange = torch.empty(1, 5, dtype=torch.int32).copy_(turned.T).T
    assert strange.is_contiguous() and strange.stride() == (1, 5)
    assert torch.equal(unpack(strange, bits, 32 // bits), codes)


def test_a_large_matrix_is_packed_in_parts_and_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    codes = some_codes(0, 7, 37, 3)
    whole = pack(codes, 3)
    monkeypatch.setattr(packing, "BLOCK", 80)
    assert torch.equal(pack(codes, 3), whole)


def test_the_first_code_is_in_the_lowest_bits() -> None:
    assert pack(torch.tensor([[-7, -8, -6]], dtype=torch.int8), 4).item() == 0x201
    assert pack(torch.tensor([[-128, -127]], dtype=torch.int8), 8).item() == 0x100
    # The eleventh of three bits reaches into the second word.
    words = pack(torch.tensor([[-4] * 10 + [3]], dtype=torch.int8), 3)
    assert words[0].tolist() == [-(1 << 30), 1]


@pytest.mark.parametrize("bits", [3, 4, 8])
def test_compressed_tensors_packs_alike(bits: int) -> None:
    theirs = pytest.importorskip("compressed_tensors.compressors.pack_quantized.helpers")
    codes = some_codes(1, 7, 45, bits)
    assert torch.equal(pack(codes, bits), theirs.pack_to_int32(codes, bits))
    high = theirs.pack_to_int32(codes, bits, packed_dim=0)
    assert torch.equal(pack(codes.T.contiguous(), bits).T, high)
