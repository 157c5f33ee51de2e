"""What a smaller vocabulary saves and what it costs, on a model and text of your own.

    python benchmarks/vocabulary.py MODEL TEXT [TEXT …] [--heldout FILE] [--sizes 16384 used]

TEXT decides which tokens are kept. Logits of kept tokens are compared on it, in float32, whole
model against smaller one. Held-out text says what it costs elsewhere: more tokens, and bits per
byte of the whole model and of the one renormalised to what is kept.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from machine import described
from machine import facts as machine_facts
from results import RESULTS, goal, goals_table, publish, table
from subject import subject
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from nexus.batch import Batch
from nexus.data.sources import Jsonl
from nexus.data.texts import Texts, texts
from nexus.evaluation.fidelity import measure
from nexus.hub import ModelSource, load_model, load_tokenizer
from nexus.kernels.lm_head import head_rows, split_head
from nexus.pruning.corpus import Texts as Decoded
from nexus.students.narrowed import Narrowed, narrowed
from nexus.tokenizers import real_vocabulary

Size = int | Literal["used"]

LENGTH = 512


def main(
    model: tyro.conf.Positional[Path],
    text: tyro.conf.Positional[tuple[Path, ...]],
    /,
    heldout: Path | None = None,
    sizes: tuple[Size, ...] = (16384, 8192, "used"),
    rows: int = 4,
    heldout_rows: int = 16,
    output: Path = RESULTS / "vocabulary",
) -> bool:
    """Measure, print a Markdown table, and write it with all numbers.

    Args:
        model: A folder.
        text: JSONL files whose tokens are kept.
        heldout: A JSONL file of other text.
        sizes: How many tokens are kept, or as many as the text uses.
        rows: How many rows of 512 tokens logits are compared on.
        heldout_rows: How many rows bits per byte are measured on, as the whole tokenizer has them.
        output: Where to write, without suffix.
    """
    source = ModelSource(model=str(model.resolve()))
    whole, tokenizer = load_model(source, Path()), load_tokenizer(source, Path())
    corpus = _read(text, tokenizer)
    other = None if heldout is None else _read([heldout], tokenizer)
    documents = _some(other, tokenizer, heldout_rows)
    count = _parameters(whole)
    before = None if not documents else bits_per_byte(whole, tokenizer, documents)
    held = () if other is None else other.documents
    found = []
    for size in sizes:
        began = time.perf_counter()
        small = narrowed(whole, tokenizer, corpus.documents, size, heldout=held)
        took = time.perf_counter() - began
        read = Decoded(tokenizer, corpus.documents)
        own = small.vocabulary.tokenizer
        found.append(
            {
                "size": size,
                **small.vocabulary.facts,
                "parameters": _parameters(small.model),
                "saved": 1 - _parameters(small.model) / count,
                "logits_differ": logits_differ(whole, small, read, rows),
                "bits_per_byte": bits_per_byte(small.model, own, documents) if documents else None,
                "seconds": took,
            }
        )
    goals = [goal(f"{one['size']}: kept logits differ by", one["logits_differ"], most=1e-4)
             for one in found]  # fmt: skip
    goals += [goal("16384: parameters saved, as a share", one["saved"], least=0.14)
              for one in found if one["size"] == 16384]  # fmt: skip
    facts = {
        "machine": machine_facts(),
        "model": subject(model),
        "parameters": count,
        "bits_per_byte": before,
        "cuts": found,
        "goals": goals,
    }
    publish(_page(facts), facts, output)
    return all(bool(each["met"]) for each in goals)


@torch.inference_mode()
def logits_differ(
    whole: PreTrainedModel, small: Narrowed, corpus: Iterable[str], rows: int
) -> float:
    """The largest difference of a kept token's logits, on text as the small tokenizer writes it."""
    ids, largest = small.vocabulary.ids, 0.0
    tokens: list[int] = []
    for document in corpus:
        tokens += small.vocabulary.tokenizer.encode(document, add_special_tokens=False)
        if len(tokens) >= rows * LENGTH:
            break
    for row in torch.tensor(tokens[: len(tokens) // LENGTH * LENGTH or None]).split(LENGTH)[:rows]:
        one = whole(input_ids=ids[row][None]).logits[..., ids]
        other = small.model(input_ids=row[None]).logits
        largest = max(largest, float((one - other).abs().max()))
    return largest


def bits_per_byte(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, documents: list[str]
) -> float:
    """On documents, each read from its beginning, in pieces of `LENGTH` tokens."""
    trunk = split_head(model, min(head_rows(model), real_vocabulary(tokenizer)))
    batches = (
        piece
        for number, text in enumerate(documents)
        for piece in _pieces(tokenizer, text, str(number))
    )
    told = measure(trunk, trunk, batches, tokenizer).teacher().bits_per_byte
    if told is None:
        raise ValueError("the held-out text has no bytes")
    return told.value


def _pieces(tokenizer: PreTrainedTokenizerBase, text: str, key: str) -> Iterable[Batch]:
    ids = torch.tensor(tokenizer.encode(text, add_special_tokens=False, verbose=False))
    for piece in ids.split(LENGTH):
        if len(piece) > 1:
            tokens, nothing = piece[None], torch.zeros_like(piece)[None]
            targets = torch.cat([tokens[:, 1:], tokens.new_full((1, 1), -100)], dim=1)
            yield Batch(
                input_ids=tokens, targets=targets, position_ids=torch.arange(len(piece))[None],
                documents=nothing, parts=nothing, tasks=nothing, keys=((key,),),
            )  # fmt: skip


def _read(paths: Iterable[Path], tokenizer: PreTrainedTokenizerBase) -> Texts:
    sources = [Jsonl(path=str(path.resolve())) for path in paths]
    return texts(sources, tokenizer, Path(), length=2**20, packing=False)


def _some(other: Texts | None, tokenizer: PreTrainedTokenizerBase, rows: int) -> list[str]:
    """The beginning of the held-out documents."""
    found, left = [], rows * LENGTH
    for ids in other.documents if other else ():
        if left <= 0:
            break
        found.append(tokenizer.decode(list(islice(ids.tolist(), left)), skip_special_tokens=True))
        left -= len(ids)
    return found


def _parameters(model: PreTrainedModel) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _page(facts: dict[str, Any]) -> str:
    header = [
        "tokens kept", "of those the text uses", "parameters", "saved", "kept logits differ by",
        "bytes of the text as before", "bytes of held-out text", "more tokens there",
        "bits per byte there", "seconds",
    ]  # fmt: skip
    whole = facts["cuts"][0]["before"]
    before = facts["bits_per_byte"]
    rows = [[f"{whole:,} (all)", "", f"{facts['parameters']:,}", "", "", "", "", "",
             "–" if before is None else f"{before:.4f}", ""]]  # fmt: skip
    for one in facts["cuts"]:
        held = one["heldout"]
        rows.append([
            f"{one['after']:,}", f"{one['used']:,}", f"{one['parameters']:,}",
            f"{one['saved']:.2%}", f"{one['logits_differ']:.2g}", f"{one['corpus']['share']:.2%}",
            "–" if held is None else f"{held['share']:.2%}",
            "–" if held is None else f"{held['after'] / max(1, held['before']) - 1:.2%}",
            "–" if before is None else f"{one['bits_per_byte']:.4f}", f"{one['seconds']:.1f}",
        ])  # fmt: skip
    return "\n\n".join([
        "# A smaller vocabulary",
        described(facts["machine"]),
        f"{facts['model']}.",
        table(header, rows),
        goals_table(facts["goals"]),
    ])  # fmt: skip


if __name__ == "__main__":
    sys.exit(0 if tyro.cli(main) else 1)
