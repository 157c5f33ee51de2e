"""Is a model in few bits smaller, faster, and still the same model?

    python benchmarks/quantised.py MODEL TEXT --fit-to FILE [--variants fp32 bf16 openvino4]

MODEL is a folder, TEXT a JSONL file of held-out text, FILE one of other text, to which grids of
four bits are fitted. Every variant is a process of its own; all
take turns, so that whatever else happens on the machine hits all alike. The exports need
`pip install 'nexus-distillation[openvino,onnx]'`.
"""

from __future__ import annotations

import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import tyro
from machine import described
from machine import facts as machine_facts
from resident import peak_mib, settle
from results import RESULTS, failure, publish, spread, table
from safetensors import safe_open
from safetensors.torch import save_file
from subject import subject
from torch import Tensor
from turns import Clock, Entry, Facts, Outcome, take_turns

from nexus.exports import Exported, export
from nexus.hub import ModelSource, load_model, load_tokenizer
from nexus.quantization.checkpoint import is_quantized
from nexus.quantized import Few, quantize_checkpoint
from pruning import rows_of

TITLES = {
    "fp32": "PyTorch, float32",
    "bf16": "PyTorch, bfloat16",
    "nexus8": "PyTorch, `nexus quantize --bits 8`",
    "nexus4": "PyTorch, `nexus quantize --bits 4`",
    "nexus4fitted": "PyTorch, `nexus quantize --bits 4 --text`",
    "openvino16": "OpenVINO, float16",
    "openvino8": "OpenVINO, 8 bits",
    "openvino4": "OpenVINO, 4 bits",
    "onnx16": "ONNX Runtime, float16",
    "onnx8": "ONNX Runtime, 8 bits",
    "onnx4": "ONNX Runtime, 4 bits",
}
RUNTIMES = ("openvino", "onnx")
REFERENCE, BESIDE, FITTED = "fp32", "bf16", "nexus4fitted"
LENGTH = 256
WARMUPS = 1


def main(
    model: tyro.conf.Positional[Path],
    text: tyro.conf.Positional[Path],
    /,
    fit_to: Path | None = None,
    variants: tuple[str, ...] = tuple(TITLES),
    tokens: int = 2048,
    prompt_tokens: int = 128,
    new_tokens: int = 64,
    rounds: int = 5,
    group_size: int | None = None,
    keep: Path | None = None,
    output: Path = RESULTS / "quantised",
) -> bool:
    """Measure, print a Markdown table, and write it with all numbers.

    Args:
        model: A folder.
        text: A JSONL file with text that the model was not calibrated on.
        fit_to: Other text; without, there is no variant whose grids are fitted to some.
        variants: Which; fp32 and bf16, which all are compared with, always run.
        tokens: How many held-out tokens KL and agreement are measured on.
        prompt_tokens: How many tokens are read in a round.
        new_tokens: How many are written.
        rounds: How often each is timed, after one round that is not counted.
        group_size: At four bits, how many neighbours share a scale; 64 unless given.
        keep: A folder where variants are written and kept, or taken from if they are there.
        output: Where to write, without suffix.
    """
    machine = machine_facts()
    names = [name for name in TITLES if name in (REFERENCE, BESIDE, *variants)]
    names = [name for name in names if fit_to is not None or name != FITTED]
    rows = _rows(model, text, tokens)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        places = {name: _written(name, model, keep or work, group_size, fit_to) for name in names}
        lengths = (prompt_tokens, new_tokens, WARMUPS + rounds)
        entries = {
            name: Entry(play, (name, str(places[name]), rows, *lengths, folder)) for name in names
        }
        outcomes = take_turns(entries, warmups=WARMUPS, rounds=rounds)
        quality = {
            name: _compared(work, name)
            for name, outcome in outcomes.items()
            if not outcome.error and not outcomes[REFERENCE].error
        }
    plan = {
        "tokens": rows.numel(), "prompt": prompt_tokens, "new": new_tokens, "rounds": rounds,
    }  # fmt: skip
    facts = {
        "machine": machine,
        "model": subject(model),
        "plan": plan,
        "variants": {
            name: {"turns": outcome.turns, **outcome.final, **quality.get(name, {})}
            | ({"error": outcome.error} if outcome.error else {})
            for name, outcome in outcomes.items()
        },
    }
    page = [
        "# Models in few bits", described(machine),
        _table(outcomes, quality, prompt_tokens, new_tokens), _notes(facts["model"], **plan),
    ]  # fmt: skip
    publish("\n\n".join(page), facts, output)
    return not any(outcome.error for outcome in outcomes.values())


def _notes(model: str, tokens: int, prompt: int, new: int, rounds: int) -> str:
    return (
        f"{model}. KL and agreement with float32 on {tokens:,} held-out tokens in rows of "
        f"{LENGTH}; {prompt} tokens read and {new} written, one text at a time; median "
        f"[smallest–largest] of {rounds} rounds in turns. Memory is that of the whole process, "
        "libraries included."
    )


def play(
    clock: Clock, name: str, place: str, rows: Tensor, prompt_tokens: int, new: int, turns: int,
    folder: str,
) -> Facts:  # fmt: skip
    """Load one variant, read and write in turns, and leave its log-probabilities in a file."""
    reader = Exported(Path(place)) if name.startswith(RUNTIMES) else _Torch(place, name)
    settle()
    prompt = rows.reshape(1, -1)[:, :prompt_tokens]
    for _ in range(turns):
        clock.begin()
        reader.forget()
        start = time.perf_counter()
        token = reader.read(prompt)[:, -1:].argmax(-1)
        read = time.perf_counter()
        for _ in range(new):
            token = reader.read(token)[:, -1:].argmax(-1)
        done = time.perf_counter()
        clock.end(prefill=read - start, decode=done - read)
    facts = {"memory_mib": peak_mib(), "bytes": _bytes(Path(place), reader)}
    found = {}
    for number, row in enumerate(rows):
        reader.forget()
        found[str(number)] = reader.read(row[None])[0].float().log_softmax(-1)
    save_file(found, Path(folder) / f"{name}.safetensors")
    return facts


class _Torch:
    """A model in PyTorch, used as an exported one is."""

    def __init__(self, place: str, name: str) -> None:
        dtype = "float32" if name == REFERENCE else "bfloat16"
        self.model = load_model(ModelSource(model=place, dtype=dtype), Path()).eval()
        self._cache: Any = None

    def forget(self) -> None:
        self._cache = None

    @torch.no_grad()
    def read(self, ids: Tensor) -> Tensor:
        output = self.model(input_ids=ids, past_key_values=self._cache, use_cache=True)
        self._cache = output.past_key_values
        return output.logits


def _rows(model: Path, text: Path, tokens: int) -> Tensor:
    tokenizer = load_tokenizer(ModelSource(model=str(model)), Path())
    return torch.cat([one.input_ids for one in rows_of(text, tokenizer, tokens // LENGTH, LENGTH)])


def _written(
    name: str, model: Path, work: Path, group_size: int | None, fit_to: Path | None
) -> Path:
    """Where the variant lies, written if it must be."""
    if name in (REFERENCE, BESIDE):
        return model
    if (work / name).is_dir():
        return work / name
    kind, number = re.fullmatch(r"([a-z]+)([0-9]+)(?:fitted)?", name).groups()  # type: ignore[union-attr]
    bits = int(number)
    group = group_size if bits == 4 else None
    if kind in RUNTIMES:
        export(model, work / name, to=kind, bits=bits, group_size=group, seconds=1.0)
    else:
        shared = None if group is None else str(group)
        text = (str(fit_to),) if name == FITTED else ()
        few = Few(str(model), work / name, bits, group_size=shared, text=text)
        quantize_checkpoint(few, lambda _: None)
    return work / name


def _bytes(place: Path, reader: Exported | _Torch) -> int:
    """Of the weights: in files of the variant's own, or as they would be saved."""
    files = [file for name in ("bin", "safetensors", "data") for file in place.glob(f"*.{name}")]
    if isinstance(reader, _Torch) and not is_quantized(reader.model.config):
        return sum(weight.numel() * weight.element_size() for weight in reader.model.parameters())
    return sum(file.stat().st_size for file in files)


def _compared(work: Path, name: str) -> Facts:
    """KL(float32 || variant) in nats and the share of positions with the same likeliest token."""
    divergences, same = [], []
    with (
        safe_open(work / f"{REFERENCE}.safetensors", "pt") as own,
        safe_open(work / f"{name}.safetensors", "pt") as other,
    ):
        for key in own.keys():  # noqa: SIM118
            p, q = own.get_tensor(key), other.get_tensor(key)
            divergences.append((p.exp() * (p - q)).sum(-1))
            same.append((p.argmax(-1) == q.argmax(-1)).float())
    return {
        "kl": float(torch.cat(divergences).mean()),
        "agreement": float(torch.cat(same).mean()),
    }


def _table(outcomes: dict[str, Outcome], quality: dict[str, Facts], prompt: int, new: int) -> str:
    header = ["variant", "MB", "peak MiB", "prefill, tokens/s", "decode, tokens/s",
              "decode ÷ bf16", "KL, nats", "agreement"]  # fmt: skip
    lines = []
    for name, outcome in outcomes.items():
        if outcome.error:
            lines.append(failure(TITLES[name], outcome.error, len(header)))
            continue
        decode = [turn["decode"] for turn in outcome.turns]
        beside = [turn["decode"] for turn in outcomes[BESIDE].turns]
        found = quality.get(name, {"kl": float("nan"), "agreement": float("nan")})
        lines.append([
            TITLES[name],
            f"{outcome.final['bytes'] / 1e6:,.0f}",
            f"{outcome.final['memory_mib']:,.0f}",
            spread([prompt / turn["prefill"] for turn in outcome.turns], 0),
            spread([new / seconds for seconds in decode], 1),
            spread([b / d for b, d in zip(beside, decode, strict=True)], 2) if beside else "–",
            f"{found['kl']:.5f}",
            f"{found['agreement']:.1%}",
        ])  # fmt: skip
    return table(header, lines)


if __name__ == "__main__":
    sys.exit(0 if tyro.cli(main) else 1)
