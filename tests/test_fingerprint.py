"""Fingerprints tell apart what differs by one bit, and only that."""

from __future__ import annotations

import copy
import json
import runpy
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, processors
from tokenizers.models import BPE
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from nexus import fingerprint
from nexus.batch import IGNORED, Batch
from nexus.fingerprint import (
    of_chat_template,
    of_config,
    of_files,
    of_model,
    of_source,
    of_text,
)
from nexus.fingerprint import of_tokenizer as of
from nexus.hub import ModelSource

WORKSPACE = runpy.run_path(str(Path(__file__).parent / "workspace.py"))


@pytest.fixture(scope="module")
def model() -> Any:
    return WORKSPACE["make_model"](layers=2, seed=1)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory, model: Any) -> Path:
    folder = tmp_path_factory.mktemp("models") / "teacher"
    WORKSPACE["save"](folder, model)
    return folder


@given(where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
@hypothesis_settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_flipped_bit_in_a_file_of_weights_shows(
    saved: Path, monkeypatch: pytest.MonkeyPatch, where: float, bit: int
) -> None:
    """To see it fail, hash every other chunk."""
    monkeypatch.setattr(fingerprint, "CHUNK_BYTES", 50_000)
    source = ModelSource(model=str(saved))
    before, file = of_source(source, saved), saved / "model.safetensors"
    content = file.read_bytes()
    at = int(where * len(content))
    try:
        file.write_bytes(content[:at] + bytes([content[at] ^ 1 << bit]) + content[at + 1 :])
        assert of_source(source, saved) != before
    finally:
        file.write_bytes(content)
    assert of_source(source, saved) == before


def test_a_model_is_what_is_in_its_files_not_where_they_lie(saved: Path, tmp_path: Path) -> None:
    other = tmp_path / "copy"
    shutil.copytree(saved, other)
    (other / "README.md").write_text("nothing that counts")
    one, two = ModelSource(model=str(saved)), ModelSource(model="copy")
    assert of_source(one, tmp_path) == of_source(two, tmp_path)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 0.1}))
    assert of_source(one, tmp_path) != of_source(two, tmp_path)


def test_a_model_of_the_hub_that_is_not_here_yet_has_none(tmp_path: Path) -> None:
    assert of_source(ModelSource(model="some-owner/some-model"), tmp_path) is None


@pytest.mark.parametrize("size", [0, 1, 9, 10, 11, 25])
def test_files_are_told_apart_by_names_and_by_what_is_in_which(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(fingerprint, "CHUNK_BYTES", 10)
    contents = {"a": b"x" * size, "b": b"y" * size, "c": b"x" * size, "d": b"x" * (size + 1)}
    files = {name: tmp_path / name for name in contents}
    for name, content in contents.items():
        files[name].write_bytes(content)
    pairs = [("a", "b"), ("b", "a"), ("a", "c"), ("a", "d"), ("a",), ("c",), ("b", "d")]
    found = [of_files([files[name] for name in names]) for names in pairs]
    assert len(set(found)) == len(pairs)
    assert of_files([files["a"], files["b"]]) == found[0]


def test_a_configuration_is_its_file(saved: Path) -> None:
    assert of_config(saved) == of_config(saved / "config.json")


@pytest.mark.parametrize("change", ["value", "type", "name", "shape", "config"])
def test_other_weights_in_memory_have_another_fingerprint(model: Any, change: str) -> None:
    """A single number that differs by the least there is, too."""
    other: Any = copy.deepcopy(model)
    match change:
        case "value":
            weight = other.model.layers[1].mlp.up_proj.weight
            with torch.no_grad():
                weight[17, 3] = torch.nextafter(weight[17, 3], torch.tensor(9.0))
        case "type":
            other.bfloat16()
        case "name":
            other.extra = other.lm_head
        case "shape":
            head = other.lm_head
            head.weight = torch.nn.Parameter(head.weight.detach().reshape(head.weight.shape[::-1]))
        case "config":
            other.config.rms_norm_eps *= 2
    assert of_model(other) != of_model(model)


def test_equal_weights_in_memory_have_one_fingerprint(model: Any, tmp_path: Path) -> None:
    assert of_model(model) == of_model(copy.deepcopy(model))
    model.save_pretrained(tmp_path)
    assert of_model(type(model).from_pretrained(tmp_path)) == of_model(model)
    assert of_model(torch.nn.BatchNorm1d(2)) != of_model(torch.nn.BatchNorm1d(3))


def test_the_same_tokens_to_predict_other_ones_are_another_text() -> None:
    """To see it fail: in fingerprint.of_text, leave `targets` out."""
    ids = torch.arange(6)[None]
    batch = Batch(ids, ids, *[torch.zeros_like(ids)] * 4)
    fewer = replace(batch, targets=torch.where(ids > 2, ids, IGNORED))
    assert of_text([batch]) == of_text(iter([batch])) != of_text([fewer])


def made(tokenizer: Tokenizer) -> Any:
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<|pad|>", eos_token="<|im_end|>"
    )


def with_parts(**parts: Any) -> Any:
    """The tokenizer with parts of its machinery exchanged."""
    backend = WORKSPACE["make_tokenizer"]().backend_tokenizer
    return made(Tokenizer.from_str(json.dumps({**json.loads(backend.to_str()), **parts})))


def with_model(vocabulary: dict[str, int], merges: Any = ()) -> Any:
    backend = WORKSPACE["make_tokenizer"]().backend_tokenizer
    model = json.loads(backend.to_str())["model"]
    model["vocab"] |= vocabulary
    return with_parts(model={**model, "merges": list(merges)})


def after(change: Callable[[Any], Any]) -> Any:
    tokenizer = WORKSPACE["make_tokenizer"]()
    change(tokenizer)
    return tokenizer


BYTES = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": False}
BEGIN = processors.TemplateProcessing(
    single="<|im_start|> $A", special_tokens=[("<|im_start|>", 257)]
)
LETTERS = json.loads(WORKSPACE["make_tokenizer"]().backend_tokenizer.to_str())["model"]["vocab"]

MUTATIONS: dict[str, Callable[[], Any]] = {
    "added token": lambda: after(lambda one: one.add_tokens(["<new>"])),
    "special token": lambda: after(
        lambda one: one.add_special_tokens({"bos_token": "<|im_start|>"})
    ),
    "another end": lambda: after(lambda one: setattr(one, "eos_token", "<|im_start|>")),
    "a letter that is special": lambda: after(
        lambda one: one.add_tokens(["a"], special_tokens=True)
    ),
    "a token in front": lambda: after(
        lambda one: setattr(one.backend_tokenizer, "post_processor", BEGIN)
    ),
    "lower case": lambda: with_parts(normalizer={"type": "Lowercase"}),
    "compatibility": lambda: with_parts(normalizer={"type": "NFKC"}),
    "no pre-tokeniser": lambda: with_parts(pre_tokenizer=None),
    "a space in front": lambda: with_parts(pre_tokenizer=BYTES),
    "permuted": lambda: with_model({"a": LETTERS["b"], "b": LETTERS["a"]}),
    "resized": lambda: with_model({"ab": 300}),
    "a merge": lambda: with_model({"zq": 300}, [["z", "q"]]),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_whatever_makes_other_ids_of_a_text_makes_another_tokenizer(name: str) -> None:
    assert of(MUTATIONS[name]()) != of(WORKSPACE["make_tokenizer"]())


def test_other_merges_of_one_map_make_another_tokenizer() -> None:
    vocabulary = {token: number for number, token in enumerate(["a", "b", "ab", "ba", "<unk>"])}
    one, other = (
        PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer(BPE(vocabulary, merges, unk_token="<unk>"))
        )
        for merges in ([("a", "b"), ("b", "a")], [("b", "a"), ("a", "b")])
    )
    assert one.get_vocab() == other.get_vocab()
    assert of(one) != of(other)


def test_a_tokenizer_stays_the_same_when_it_is_used_saved_and_loaded(tmp_path: Path) -> None:
    tokenizer = WORKSPACE["make_tokenizer"]()
    before = of(tokenizer)
    tokenizer(["one", "longer than one"], padding=True, truncation=True, max_length=5)
    tokenizer.chat_template = "another, which is a thing of its own"
    assert of(tokenizer) == before
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    once, twice = (of(AutoTokenizer.from_pretrained(tmp_path)) for _ in range(2))
    assert once == twice


def test_a_chat_template_is_told_apart() -> None:
    one, other, none = (WORKSPACE["make_tokenizer"]() for _ in range(3))
    other.chat_template = one.chat_template + " "
    none.chat_template = None
    several = WORKSPACE["make_tokenizer"]()
    several.chat_template = {"default": one.chat_template, "tools": "x"}
    found = [of_chat_template(tokenizer) for tokenizer in (one, other, none, several)]
    assert len(set(found)) == 4


def test_a_gguf_file_is_found_by_its_very_name(tmp_path: Path) -> None:
    source = ModelSource(model=str(tmp_path), gguf_file="model[1].gguf")
    (tmp_path / "model[1].gguf").write_bytes(b"one")
    before = of_source(source, tmp_path)
    (tmp_path / "model1.gguf").write_bytes(b"not asked for")
    assert of_source(source, tmp_path) == before
    (tmp_path / "model[1].gguf").write_bytes(b"two")
    assert of_source(source, tmp_path) != before
