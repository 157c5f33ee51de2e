"""What the examples work on: models made on the spot, or any that you name.

python examples/01_output.py
python examples/01_output.py --teacher Qwen/Qwen3-1.7B --student Qwen/Qwen3-0.6B
"""

from __future__ import annotations

import argparse
from pydoc_data.topics import topics

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def named_or_tiny() -> tuple[PreTrainedModel, PreTrainedModel, PreTrainedTokenizerBase]:
    """The models that --teacher and --student name, with the teacher's tokenizer; or tiny ones."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--teacher", help="a folder or a name on the hub")
    parser.add_argument("--student", help="the same, with the teacher's tokenizer")
    names = parser.parse_args()
    if (names.teacher is None) != (names.student is None):
        parser.error("give both --teacher and --student, or neither")
    if names.teacher is None:
        return make_model(layers=4, seed=1), make_model(layers=2, seed=2), make_tokenizer()
    teacher = AutoModelForCausalLM.from_pretrained(names.teacher)
    student = AutoModelForCausalLM.from_pretrained(names.student, dtype=torch.float32)
    return teacher, student, AutoTokenizer.from_pretrained(names.teacher)


def make_model(layers: int, seed: int, vocabulary: int = 259) -> PreTrainedModel:
    """A Llama of some ten thousand random weights, large enough ones to prefer some tokens."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        initializer_range=0.2,
        bos_token_id=None,
        eos_token_id=258,
        pad_token_id=256,
    )
    return LlamaForCausalLM(config).eval()


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A token a byte, and a chat template."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    bytes_only = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    bytes_only.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bytes_only.decoder = decoders.ByteLevel()
    bytes_only.add_special_tokens(["<|pad|>", "<|im_start|>", "<|im_end|>"])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bytes_only, pad_token="<|pad|>", eos_token="<|im_end|>"
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def sentences(count: int = 64) -> list[str]:
    """English that is on every machine with Python: paragraphs of the language reference."""
    paragraphs = [part.strip() for name in sorted(topics) for part in topics[name].split("\n\n")]
    return [part for part in paragraphs if 80 <= len(part) <= 240][:count]
