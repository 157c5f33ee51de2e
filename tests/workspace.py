"""A workspace at smoke size: models that are made on the spot, text, and a recipe that works.

Loaded with `runpy.run_path`, since tests are no package.
"""

from __future__ import annotations

import json
import runpy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from nexus.stopping import Stopping

TINY = runpy.run_path(str(Path(__file__).parent.parent / "examples" / "tiny.py"))
make_model, make_tokenizer, sentences = (
    TINY[name] for name in ("make_model", "make_tokenizer", "sentences")
)

RECIPE: dict[str, Any] = {
    "output": "run",
    "teacher": {"kind": "local", "model": "teacher", "dtype": "float32"},
    "student": {"kind": "pretrained", "model": "student"},
    "data": {
        "sources": [{"kind": "jsonl", "path": "train.jsonl"}],
        "heldout": [{"kind": "jsonl", "path": "heldout.jsonl"}],
        "sequence_length": 128,
        "over_long": "split",
    },
    "objectives": [{"kind": "output", "divergence": "forward_kl", "temperature": 1.0}],
    "train": {
        "steps": 4,
        "tokens_per_step": 256,
        "micro_batch_rows": 1,
        "learning_rate": 3.0e-3,
        "warmup_steps": 1,
        "precision": "fp32",
        "save_every": 2,
        "dashboard": "none",
    },
    "evaluate": {"speed_seconds": 0, "samples": 1, "sample_tokens": 8},
}


SKELETON: dict[str, Any] = {
    "output": "run",
    "teacher": {"kind": "local", "model": "teacher"},
    "student": {"kind": "pretrained", "model": "student"},
    "data": {"sources": [{"kind": "jsonl", "path": "train.jsonl"}], "sequence_length": 64},
    "objectives": [{"kind": "output"}],
    "train": {"steps": 1, "tokens_per_step": 64},
}
"""The least that a recipe says, for what reads no file."""


class StopAfter(Stopping):
    """Is asked after every step, and says yes when so many were taken."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self._left = steps

    def __call__(self) -> bool:
        self._left -= 1
        self._asked = self._asked or self._left <= 0
        return self._asked


def write_workspace(folder: Path) -> Path:
    """teacher/, student/, train.jsonl, heldout.jsonl and recipe.yaml; returns the recipe."""
    folder.mkdir(parents=True, exist_ok=True)
    save(folder / "teacher", make_model(layers=4, seed=1))
    save(folder / "student", make_model(layers=2, seed=2))
    texts = sentences(60)
    write_rows(folder / "train.jsonl", [{"text": text} for text in texts[:50]])
    write_rows(folder / "heldout.jsonl", [{"text": text} for text in texts[50:]])
    recipe = folder / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(RECIPE, sort_keys=False))
    return recipe


def save(folder: Path, model: Any, tokenizer: Any = None) -> None:
    model.save_pretrained(folder)
    (tokenizer or make_tokenizer()).save_pretrained(folder)


def with_words(layers: int = 2, vocabulary: int = 400) -> tuple[Any, Any]:
    """A model and a tokenizer that has learnt some words of its text."""
    tokenizer = make_tokenizer()
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = tokenizer.backend_tokenizer.decoder
    special = ["<|pad|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        show_progress=False,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    raw.train_from_iterator(sentences(200), trainer)
    words = PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<|pad|>", eos_token="<|im_end|>"
    )
    words.chat_template = tokenizer.chat_template
    model = make_model(layers=layers, seed=3, vocabulary=len(words))
    for part in (model.config, model.generation_config):
        part.eos_token_id, part.pad_token_id = words.eos_token_id, words.pad_token_id
    return model, words


def write_rows(path: Path, rows: Sequence[Any]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_questions(folder: Path) -> None:
    """A workspace, and a task of twelve questions, `easy.jsonl`."""
    write_workspace(folder)
    rows = [
        {"id": f"q{i}", "question": f"What is {i}?", "choices": ["a cat", "dog"], "label": i % 2}
        for i in range(12)
    ]
    write_rows(folder / "easy.jsonl", rows)
