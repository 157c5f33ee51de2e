"""nexus export, as a command: light to import, so that --help is instant."""

from __future__ import annotations

from pathlib import Path

import tyro


def export(
    model: tyro.conf.Positional[str],
    /,
    out: Path,
    to: str = "openvino",
    bits: int = 8,
    group_size: int | None = None,
    json: bool = False,
) -> None:
    """Write a model for another runtime, which reads and writes faster on a CPU.

    What comes out is loaded again and compared with the model before the command ends.

    Example: nexus export runs/half/student --to openvino --bits 4 --out half-openvino

    Args:
        model: A folder, a name on the hub or a GGUF file.
        out: Where to; must be empty or not exist.
        to: The format: openvino.
        bits: 16, 8 or 4. At four, embedding and head have eight.
        group_size: How many neighbours along a row share a scale at four bits; 64 unless given.
        json: Print one JSON object instead of lines.
    """
    from nexus.exports import export as write

    facts = write(model, out, to=to, bits=bits, group_size=group_size)
    if json:
        from json import dumps

        print(dumps(facts, indent=2))
        return
    for name, kind in facts["wider"].items():
        print(f"not in {bits} bits but {kind}: {name}")
    weights = ", ".join(f"{count} in {kind}" for kind, count in facts["weights"].items())
    print(f"{out}  weights: {weights}; {facts['bytes']:,} bytes")
