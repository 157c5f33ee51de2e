"""What is left of a model right after a cut, before any distillation: perplexity by way of cutting.

    python benchmarks/pruning.py --model DIR --data DIR [--cases ffn-25 ffn-40 depth-5 depth-10]

`--data` holds `wikitext2/valid.jsonl`, on which perplexity is measured (8k tokens), and
`wiki_demo/train.jsonl`, on which importance is measured and the cut repaired (24k tokens): one JSON
object with a `text` a line. The default is everything, about half an hour on two cores for a model
of 135M parameters.
"""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import tyro
from machine import described as machine_described
from machine import facts as machine_facts
from results import RESULTS, publish, table
from subject import subject
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from nexus.batch import IGNORED, Batch
from nexus.hub import ModelSource, load_model, load_tokenizer
from nexus.pruning.depth import evenly_spaced, keep_layers
from nexus.pruning.depth_search import (
    DEPTH_STRATEGIES,
    Deletions,
    Trials,
    rank_layers,
)
from nexus.pruning.families import family_of
from nexus.pruning.importance import STRATEGIES, measure
from nexus.pruning.repair import repair
from nexus.pruning.sizes import Sizes, parameters
from nexus.pruning.slice import Kept, cut
from nexus.quantization.quantize import held_in

CASES = ("ffn-25", "ffn-40", "depth-5", "depth-10")
DEPTH_WAYS = ("default", *DEPTH_STRATEGIES, "evenly_spaced", "random")

LENGTH, ROWS_A_BATCH = 512, 4
HELD, CALIBRATION, DEPTH = 16, 48, 8
"""Rows: of held-out text, of calibration text, and of that for trying layers one by one."""
MULTIPLE = 32
NO_REPAIR = "–"


@dataclass(frozen=True)
class Row:
    """One way of cutting."""

    case: str
    way: str
    repaired: str
    perplexity: float
    parameters: int
    seconds: float

    @property
    def place(self) -> tuple[int, str, int, str]:
        """Where it stands in the table: by what is cut, how much of it, how, and whether mended."""
        ways = (*STRATEGIES, *DEPTH_WAYS)
        way = self.way.split(" (")[0]
        kind, _, amount = self.case.partition(" −")
        size = int(amount.removesuffix(" %") or 0)
        number = ways.index(way) if way in ways else -1
        return (("nothing cut", "FFN", "depth").index(kind), f"{size:03}", number, self.repaired)


def rows_of(
    path: Path, tokenizer: PreTrainedTokenizerBase, rows: int, length: int = LENGTH
) -> list[Batch]:
    """The first tokens of a file, in rows of equal length without padding."""
    ids: list[int] = []
    with path.open(encoding="utf-8") as file:
        for line in file:
            ids += tokenizer(json.loads(line)["text"] + "\n\n", verbose=False)["input_ids"]
            if len(ids) >= rows * length:
                break
    tokens = torch.tensor(ids[: min(rows, len(ids) // length) * length]).view(-1, length)
    return [_batch(some) for some in tokens.split(ROWS_A_BATCH)]


def _batch(tokens: torch.Tensor) -> Batch:
    nothing = torch.zeros_like(tokens)
    last = tokens.new_full((len(tokens), 1), IGNORED)
    return Batch(
        input_ids=tokens,
        targets=torch.cat([tokens[:, 1:], last], dim=1),
        position_ids=torch.arange(tokens.shape[1]).expand_as(tokens),
        documents=nothing,
        parts=nothing,
        tasks=nothing,
    )


def perplexity(model: PreTrainedModel, held: list[Batch]) -> float:
    targets = sum(int(batch.target_count) for batch in held)
    every = range(model.config.num_hidden_layers)
    return math.exp(min(Deletions(model, held).loss(every) / targets, 50.0))


def narrower(
    model: PreTrainedModel, calibration: list[Batch], held: list[Batch], share: int,
    strategies: tuple[str, ...],
) -> Iterator[Row]:  # fmt: skip
    """Feed-forward networks with so many percent fewer neurons, by every strategy."""
    sizes = Sizes.of(model.config, family_of(model))
    count = max(1, sizes.neurons * (100 - share) // 100 // MULTIPLE) * MULTIPLE
    for strategy in strategies:
        start = time.perf_counter()
        scores = measure(model, calibration, strategy=strategy)
        best = {
            layer: value.topk(min(count, len(value))).indices.sort().values
            for layer, value in scores.neurons.items()
        }
        kept = Kept(neurons=best)
        small = cut(model, kept)
        for repaired in ("no", "yes"):
            if repaired == "yes":
                repair(small, model, kept, calibration)
            took = time.perf_counter() - start
            yield _row(f"FFN −{share} %", strategy, repaired, small, held, took)


def shallower(
    model: PreTrainedModel, calibration: list[Batch], held: list[Batch], fewer: int,
    strategies: tuple[str, ...],
) -> Iterator[Row]:  # fmt: skip
    """So many layers fewer, chosen in every way."""
    total = model.config.num_hidden_layers
    for strategy in strategies:
        start = time.perf_counter()
        match strategy:
            case "evenly_spaced":
                left = evenly_spaced(total - fewer, total)
            case "random":
                left = tuple(sorted(random.Random(0).sample(range(total), total - fewer)))
            case "default":
                likely = rank_layers(model, calibration, "block_influence", total - fewer)
                left = Trials.short(model, calibration).better(likely)
            case "block_influence" | "norm_ratio":
                left = rank_layers(model, calibration, strategy, total - fewer)
            case _:
                few = calibration[: -(-DEPTH // ROWS_A_BATCH)]
                left = rank_layers(model, few, strategy, total - fewer)
        took = time.perf_counter() - start
        small = keep_layers(model, left)
        held_in(small, model.dtype)
        gone = ", ".join(str(layer) for layer in range(total) if layer not in left)
        yield _row(f"depth −{fewer}", f"{strategy} (−{gone})", NO_REPAIR, small, held, took)


def _row(
    case: str, way: str, repaired: str, small: PreTrainedModel, held: list[Batch], took: float
) -> Row:
    family = family_of(small)
    size = parameters(small, family, Sizes.of(small.config, family))
    return Row(case, way, repaired, perplexity(small, held), size, took)


def main(
    model: Path,
    data: Path,
    cases: tuple[str, ...] = CASES,
    strategies: tuple[str, ...] = tuple(dict.fromkeys((*STRATEGIES, *DEPTH_WAYS))),
    dtype: Literal["float32", "bfloat16"] = "bfloat16",
    output: Path | None = RESULTS / "pruning",
) -> None:
    """Cut in every way and measure. Rows that an earlier table has of the same model stay in it.

    Args:
        model: a folder with a model and its tokenizer.
        data: the folder of data sets.
        cases: what is cut: `ffn-` and percent, or `depth-` and a number of layers.
        strategies: which ways; those that do not fit a case are left out there.
        dtype: of the weights.
        output: where the table goes, without a suffix.
    """
    machine = machine_facts()
    source = ModelSource(model=str(model.resolve()))
    tokenizer = load_tokenizer(source, Path())
    whole = load_model(source, Path(), dtype).eval()
    held = rows_of(data / "wikitext2" / "valid.jsonl", tokenizer, HELD)
    calibration = rows_of(data / "wiki_demo" / "train.jsonl", tokenizer, CALIBRATION)
    about = {"model": subject(model), "dtype": dtype}
    rows = [_row("nothing cut", NO_REPAIR, NO_REPAIR, whole, held, 0.0)]
    for case in cases:
        kind, _, amount = case.partition("-")
        if kind == "ffn":
            some = tuple(each for each in strategies if each in STRATEGIES)
            found = narrower(whole, calibration, held, int(amount), some)
        else:
            some = tuple(each for each in strategies if each in DEPTH_WAYS)
            found = shallower(whole, calibration, held, int(amount), some)
        rows += found
    rows = with_earlier(rows, about, output)
    facts = about | {"machine": machine, "rows": [vars(row) for row in rows]}
    said = f"{about['model']} in {dtype}. {machine_described(machine)}"
    publish(described(rows, held, calibration, said), facts, output)


def with_earlier(rows: list[Row], about: dict[str, str], output: Path | None) -> list[Row]:
    """The rows, and those of an earlier table of the same that were not measured again."""
    file = None if output is None else output.with_suffix(".json")
    known = json.loads(file.read_text(encoding="utf-8")) if file and file.exists() else {}
    same = known.get("rows", []) if about.items() <= known.items() else []
    every = {row.place: row for row in (Row(**each) for each in same)}
    every |= {row.place: row for row in rows}
    return [every[place] for place in sorted(every)]


def described(rows: list[Row], held: list[Batch], calibration: list[Batch], about: str) -> str:
    looked, asked = (sum(b.input_ids.numel() for b in some) for some in (calibration, held))
    return "\n".join(
        [
            "# Perplexity right after a cut, before any distillation",
            "",
            about,
            "",
            f"Importance and repair see {looked:,} tokens, perplexity is that of {asked:,} others.",
            "",
            table(
                ["cut", "by", "repaired", "parameters", "perplexity", "seconds"],
                [
                    [
                        row.case, row.way, row.repaired, f"{row.parameters / 1e6:.1f}M",
                        f"{row.perplexity:,.4g}", f"{row.seconds:.0f}",
                    ]
                    for row in rows
                ],
            ),
        ]
    )  # fmt: skip


if __name__ == "__main__":
    tyro.cli(main)
