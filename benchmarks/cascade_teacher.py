"""What `cascade.py` begins with: text, a tokenizer trained on it, and a shape for the teacher."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from nexus import quickstart
from nexus.spec import Spec

END = "<|end|>"


class Shape(Spec):
    """Of a Llama with tied embeddings; two heads share a key and a value."""

    vocabulary: int = 2048
    hidden: int = 320
    layers: int = 8
    neurons: int = 896
    head_entries: int = 32

    def config(self, *, like_nothing: bool = False) -> LlamaConfig:
        """The configuration, or the smallest one with the same tokens."""
        hidden = 2 * self.head_entries if like_nothing else self.hidden
        heads = hidden // self.head_entries
        return LlamaConfig(
            architectures=["LlamaForCausalLM"],
            vocab_size=self.vocabulary,
            hidden_size=hidden,
            intermediate_size=hidden if like_nothing else self.neurons,
            num_hidden_layers=1 if like_nothing else self.layers,
            num_attention_heads=heads,
            num_key_value_heads=heads // 2,
            head_dim=self.head_entries,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=0,
            pad_token_id=0,
        )


SHAPE = Shape()


def prepare(folder: Path, text: Iterable[Path], shape: Shape) -> None:
    """Write text, `shape.json` and `placeholder/`: a model that gives a run without a teacher the
    tokenizer, and is not asked. What is there already stays."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "heldout.jsonl").exists():
        quickstart.write_text(folder, _named(tuple(text)) if text else quickstart.documents())
    if (folder / "shape.json").exists():
        return
    placeholder = folder / "placeholder"
    LlamaForCausalLM(shape.config(like_nothing=True)).save_pretrained(placeholder)
    tokenizer(folder / "train.jsonl", shape.vocabulary).save_pretrained(placeholder)
    shape.config().to_json_file(folder / "shape.json")


def tokenizer(text: Path, vocabulary: int) -> PreTrainedTokenizerFast:
    """Byte pairs of a JSONL file."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        show_progress=False,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    raw.train_from_iterator((words for _, words in _named((text,))), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=raw, eos_token=END, pad_token=END)


def _named(files: Iterable[Path]) -> Iterator[tuple[str, str]]:
    for file in files:
        with file.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                yield f"{file.parent.name} {file.name} {number}", str(json.loads(line)["text"])
