"""nexus quantize, as a command: light to import, so that --help is instant."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import tyro

from nexus.prune import say


def quantize(
    model: tyro.conf.Positional[str],
    /,
    out: Path,
    bits: int | None = None,
    scheme: str | None = None,
    group_size: str | None = None,
    symmetric: bool = True,
    text: tuple[str, ...] = (),
    dtype: Literal["float32", "bfloat16", "float16", "auto"] = "bfloat16",
    json: bool = False,
) -> None:
    """Write a model with the weights of its linear layers in few bits.

    What comes out loads wherever Nexus loads a model, and, where compressed-tensors is installed,
    with plain from_pretrained. Embeddings and head are not put into few bits.

    Example: nexus quantize runs/half/student --bits 4 --text train.jsonl --out half-int4

    Args:
        model: A folder, a name on the hub or a GGUF file.
        out: Where to; must be empty or not exist.
        bits: 8, 4 or 3.
        scheme: Or by its name: int8, int4, int3 or int8_dynamic (what enters a layer is rounded,
            too).
        group_size: How many neighbours along a row share a scale, or row; 64 below eight bits and
            the row at eight unless given.
        symmetric: Grids lie around zero. Others are not read by plain from_pretrained.
        text: Files of text (JSONL or parquet) that says how strong each input of a layer is: below
            eight bits the error is smaller then.
        dtype: What all else is written in; auto is what it was saved in.
        json: Print one JSON object instead of lines.
    """
    from nexus.quantized import Few, quantize_checkpoint

    asked = Few(model, out, bits, scheme, group_size, symmetric, text, dtype)
    facts = quantize_checkpoint(asked, say)
    if json:
        from json import dumps

        print(dumps(facts, indent=2))
        return
    for why in dict.fromkeys(facts["kept"].values()):
        names = ", ".join(name for name, its in facts["kept"].items() if its == why)
        print(f"not quantised, since {why}: {names}")
    print(f"{out}  {facts['layers']} layers in {facts['scheme']}, {facts['bytes']:,} bytes")
