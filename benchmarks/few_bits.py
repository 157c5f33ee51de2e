"""How near to a model is it in few bits, by scheme, rounded to nearest or fitted to text?

    python benchmarks/few_bits.py MODEL TEXT --heldout FILE

MODEL is a folder, TEXT a JSONL file that grids are fitted to, FILE one of other text. All is as it
would be saved, what is not in few bits and scales in bfloat16, and computed in float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import tyro
from machine import described
from machine import facts as machine_facts
from results import RESULTS, publish, table
from subject import subject
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from nexus.batch import Batch
from nexus.calibration import TOKENS, calibrated
from nexus.evaluation.fidelity import measure
from nexus.hub import ModelSource, load_model, load_tokenizer
from nexus.kernels.lm_head import head_rows, split_head
from nexus.quantization.scheme import Scheme
from nexus.teachers.local import LocalTeacher
from nexus.tokenizers import real_vocabulary
from pruning import rows_of

LENGTH = 256
MEASURES = ("forward_kl", "agreement", "perplexity")

SCHEMES = (
    Scheme(scheme="int8"),
    Scheme(scheme="int8_dynamic"),
    Scheme(scheme="int4"),
    Scheme(scheme="int4", symmetric=False),
    Scheme(scheme="int4", group_size=32),
    Scheme(scheme="int4", group_size=32, symmetric=False),
    Scheme(scheme="int3", group_size=32),
    Scheme(scheme="int3", group_size=32, symmetric=False),
)


@dataclass(frozen=True)
class Whole:
    """A model as it was, which others are compared with on text that nothing was fitted to."""

    teacher: LocalTeacher
    tokenizer: PreTrainedTokenizerBase
    heldout: list[Batch]

    @classmethod
    def load(cls, model: Path, heldout: Path, rows: int) -> Whole:
        source = ModelSource(model=str(model.resolve()))
        tokenizer, loaded = load_tokenizer(source, Path()), load_model(source, Path())
        vocabulary = min(head_rows(loaded), real_vocabulary(tokenizer))
        teacher = LocalTeacher(loaded, vocabulary)
        return cls(teacher, tokenizer, single_rows(heldout, tokenizer, rows))

    def few(self, scheme: Scheme, text: Sequence[Batch] | None = None) -> PreTrainedModel:
        """It in few bits, fitted to the first tokens of the text if there is some; in 32 bits."""
        some = None if text is None else text[: max(1, TOKENS // LENGTH)]
        model = calibrated(self.teacher.pretrained, scheme, some, torch.bfloat16).model
        nn.Module.to(model, torch.float32)
        return model

    def worth(self, model: PreTrainedModel) -> dict[str, Any]:
        """What a model is beside it, with intervals over rows."""
        trunk = split_head(model, self.teacher.vocabulary)
        found = measure(trunk, self.teacher, self.heldout, self.tokenizer).student(0)
        return found.model_dump(include=set(MEASURES))


def single_rows(path: Path, tokenizer: PreTrainedTokenizerBase, count: int) -> list[Batch]:
    """Rows of one without padding, each a document of its own."""
    found = rows_of(path, tokenizer, count, LENGTH)
    rows = [batch.rows(at, at + 1) for batch in found for at in range(len(batch.input_ids))]
    return [replace(row, keys=((str(number),),)) for number, row in enumerate(rows)]


def estimate(found: dict[str, Any], digits: int, scale: float = 1.0) -> str:
    """A value and its interval over rows."""
    value, low, high = (scale * found[key] for key in ("value", "low", "high"))
    return f"{value:,.{digits}f} ({low:,.{digits}f}–{high:,.{digits}f})"


def main(
    model: tyro.conf.Positional[Path],
    text: tyro.conf.Positional[Path],
    /,
    heldout: Path,
    rows: int = 32,
    output: Path = RESULTS / "few_bits",
) -> None:
    """Measure, print a Markdown table, and write it with all numbers, after every row.

    Args:
        model: A folder.
        text: A JSONL file that grids are fitted to.
        heldout: A JSONL file of other text.
        rows: How many rows of 256 held-out tokens all is measured on, at most.
        output: Where to write, without suffix.
    """
    machine = machine_facts()
    whole = Whole.load(model, heldout, rows)
    fit_to = single_rows(text, whole.tokenizer, TOKENS // LENGTH)
    found: list[dict[str, Any]] = []
    facts = {
        "machine": machine, "model": subject(model), "rows": len(whole.heldout), "found": found,
        "whole": whole.worth(whole.teacher.pretrained),
    }  # fmt: skip
    for scheme in SCHEMES:
        for way in (None,) if scheme.bits == 8 else (None, fit_to):
            worth = whole.worth(whole.few(scheme, way))
            found.append({"scheme": str(scheme), "fitted": way is not None, **worth})
            publish(_page(facts), facts, output)


def _page(facts: dict[str, Any]) -> str:
    lines = [
        [
            f"{one['scheme']}{', fitted to text' if one['fitted'] else ''}",
            estimate(one["forward_kl"], 4),
            estimate(one["agreement"], 1, 100),
            estimate(one["perplexity"], 2),
        ]
        for one in facts["found"]
    ]
    return "\n\n".join([
        "# In few bits, by scheme",
        table(["", "KL, nats", "agreement, %", "perplexity"], lines),
        f"{facts['model']}. Beside the model as it was, on {facts['rows']} held-out rows of "
        f"{LENGTH} tokens (95 % intervals over rows), on which that has a perplexity of "
        f"{facts['whole']['perplexity']['value']:.2f}; fitted to {TOKENS:,} tokens of other text.",
        described(facts["machine"]),
    ])  # fmt: skip


if __name__ == "__main__":
    tyro.cli(main)
