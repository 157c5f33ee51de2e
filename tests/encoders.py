"""Encoders at smoke size with a tokenizer of whole words, as `save_pretrained` writes them.

Loaded with `runpy.run_path`, since tests are no package.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

WORDS = [
    *("the", "a", "cat", "dog", "sits", "runs", "on", "under"),
    *("mat", "tree", "and", "sees", "old", "young", "red", "green"),
]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
SIZES: dict[str, Any] = {
    "vocab_size": 32,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 40,
    "pad_token_id": 0,
}
DISTILBERT: dict[str, Any] = {
    "vocab_size": 32,
    "dim": 32,
    "hidden_dim": 64,
    "n_layers": 3,
    "n_heads": 4,
    "max_position_embeddings": 40,
}


def write_encoder(folder: Path, name: str) -> Path:
    """A model of a class of transformers', its tokenizer, and text.jsonl beside the folder."""
    kind = name.partition("For")[0]
    config = getattr(transformers, f"{kind}Config")
    torch.manual_seed(0)
    model = getattr(transformers, name)(config(**(DISTILBERT if kind == "DistilBert" else SIZES)))
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    rows = [{"text": " ".join(WORDS[i % 7 :] + WORDS[: i % 5])} for i in range(60)]
    text = folder.with_name("text.jsonl")
    text.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def tokenizer() -> PreTrainedTokenizerFast:
    numbers = {word: number for number, word in enumerate([*SPECIAL, *WORDS])}
    raw = Tokenizer(models.WordLevel(numbers, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]",
        sep_token="[SEP]", mask_token="[MASK]",
    )  # fmt: skip
