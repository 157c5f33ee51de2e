"""Codes of few bits, one behind the other in 32-bit words, as compressed-tensors stores them."""

from __future__ import annotations

import torch
from jaxtyping import Int8, Int32
from torch import Tensor

WORD = 32
BLOCK = 2**20
"""Codes that are packed at once: what is spread into bits takes many times their memory."""


def pack(codes: Int8[Tensor, "rows columns"], bits: int) -> Int32[Tensor, "rows words"]:
    """Each code above the least, its lowest bit first, without a gap within a row."""
    some = max(1, BLOCK // max(1, codes.shape[1]))
    return torch.cat([_packed(part, bits) for part in torch.split(codes, some)])


def _packed(codes: Int8[Tensor, "rows columns"], bits: int) -> Int32[Tensor, "rows words"]:
    rows, columns = codes.shape
    above = codes.to(torch.int16) + (1 << (bits - 1))
    spread = above[..., None] >> torch.arange(bits, device=codes.device)
    stream = (spread & 1).to(torch.uint8).flatten(1)
    words = -(-columns * bits // WORD)
    stream = torch.nn.functional.pad(stream, (0, words * WORD - columns * bits))
    eight = stream.view(rows, words * 4, 8) << torch.arange(8, device=codes.device)
    return eight.sum(-1).to(torch.uint8).view(torch.int32)


def unpack(words: Int32[Tensor, "rows words"], bits: int, columns: int) -> Int8[Tensor, "rows _"]:
    """What `pack` was given."""
    rows = len(words)
    # Flat in between: a single column may have any stride and still be called contiguous.
    octets = words.flatten().view(torch.uint8).view(rows, 4 * words.shape[1])
    if bits == 8:
        return (octets[:, :columns] ^ 0x80).view(torch.int8)
    if bits == 4:
        halves = torch.stack((octets & 15, octets >> 4), -1).view(rows, -1)[:, :columns]
        return halves.view(torch.int8) - 8
    stream = (octets[..., None] >> torch.arange(8, device=words.device, dtype=torch.uint8)) & 1
    each = stream.view(rows, -1)[:, : columns * bits].reshape(rows, columns, bits)
    above = (each << torch.arange(bits, device=words.device, dtype=torch.uint8)).sum(-1)
    return (above - (1 << (bits - 1))).to(torch.int8)
