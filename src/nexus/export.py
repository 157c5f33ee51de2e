"""nexus export, as a command: light to import, so that --help is instant."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tyro

from nexus.prune import say


def export(
    model: tyro.conf.Positional[str],
    /,
    out: Path,
    to: str = "openvino",
    bits: int = 8,
    group_size: int | None = None,
    heldout: tuple[str, ...] = (),
    json: bool = False,
) -> None:
    """Write a model for another runtime, which reads and writes faster on a CPU.

    What comes out is loaded again and compared with the model before the command ends: KL,
    agreement, and tokens a second of both while they write.

    Example: nexus export runs/half/student --to openvino --bits 4 --out half-openvino

    Args:
        model: A folder, a name on the hub or a GGUF file.
        out: Where to; must be empty or not exist.
        to: The format: openvino or onnx.
        bits: 16, 8 or 4. At four, embedding and head have eight.
        group_size: How many neighbours along a row share a scale at four bits, and at eight for
            ONNX; 64 unless given.
        heldout: Text to compare the export and the model on: JSONL, parquet or a data set's
            directory. Unless given, the model writes some itself.
        json: Print one JSON object instead of lines.
    """
    from nexus.exports import export as write

    facts = write(model, out, to=to, bits=bits, group_size=group_size, heldout=heldout, say=say)
    if json:
        from json import dumps

        print(dumps(facts, indent=2))
        return
    for name, kind in facts["wider"].items():
        print(f"not in {bits} bits but {kind}: {name}")
    weights = ", ".join(f"{count} in {kind}" for kind, count in facts["weights"].items())
    for line in _compared(facts):
        print(line)
    print(f"{out}  weights: {weights}; {facts['bytes']:,} bytes")


def _compared(facts: dict[str, Any]) -> list[str]:
    """What the export is worth beside the model, in a line each."""
    from nexus.evaluation.runtime import OWN_TEXT
    from nexus.report.words import cell
    from nexus.results import Estimate

    def shown(values: dict[str, Any]) -> str:
        return cell(Estimate.parse(values, where="export.json")).line

    said = ["KL was not measured: the model writes no text of its own. Give some with --heldout"]
    if facts["kl"] is not None:
        own = facts["text"] == OWN_TEXT
        said = [
            f"KL from the model {shown(facts['kl'])} nats a token, agreement "
            f"{shown(facts['agreement'])}, on {facts['tokens']:,} tokens "
            f"{facts['text'] if own else 'of the held-out text'}"
        ]
    decode = facts["decode"]
    return [
        *said,
        f"writes {shown(decode['runtime'])} tokens/s, the model in PyTorch's "
        f"{decode['model_dtype']} {shown(decode['model'])}: {shown(decode['speedup'])} as fast",
    ]
