"""Models and tokenizers are loaded whole, or the error says what to do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import (
    BertConfig,
    BertForMaskedLM,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from nexus.errors import UsageError
from nexus.hub import ModelSource, load_model, load_tokenizer, locate, read_config, save

SIZES = {"vocab_size": 16, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}


def llama(**changes: Any) -> LlamaForCausalLM:
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    return LlamaForCausalLM(LlamaConfig(**{**SIZES, **heads, **changes})).eval()


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    inner = Tokenizer(models.WordLevel({"<unk>": 0, "a": 1, "b": 2}, unk_token="<unk>"))
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>")


@pytest.fixture
def folder(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> Path:
    """A recipe's folder, with a model in it."""
    save(llama(), tokenizer, tmp_path / "teacher")
    return tmp_path


def refused(folder: Path, what: str, **source: Any) -> None:
    with pytest.raises(UsageError, match=what):
        load_model(ModelSource(**{"model": "teacher", **source}), folder)


def test_what_is_saved_is_what_is_loaded(folder: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    model = llama()
    save(model, tokenizer, folder / "other")
    loaded = load_model(ModelSource(model="other"), folder)
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, model.state_dict()[name])
    assert not loaded.training
    source = ModelSource(model="other")
    assert load_tokenizer(source, folder).get_vocab() == tokenizer.get_vocab()


def test_loading_draws_no_bars_and_gives_no_advice(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    load_model(ModelSource(model="teacher"), folder)
    load_tokenizer(ModelSource(model="teacher"), folder)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_weights_are_held_in_what_was_asked(folder: Path, dtype: Any) -> None:
    model = load_model(ModelSource(model="teacher", dtype=dtype), folder)
    assert model.dtype == getattr(torch, dtype)
    assert load_model(ModelSource(model="teacher", dtype=dtype), folder, "float32").dtype == (
        torch.float32
    )


def test_auto_is_what_was_saved(folder: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    save(llama().to(torch.bfloat16), tokenizer, folder / "half")
    assert load_model(ModelSource(model="half", dtype="auto"), folder).dtype == torch.bfloat16


def test_a_relative_path_is_relative_to_the_recipe(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "elsewhere").mkdir()
    monkeypatch.chdir(folder / "elsewhere")
    assert locate(ModelSource(model="teacher"), folder) == str(folder / "teacher")
    assert locate(ModelSource(model="org/teacher"), folder) == "org/teacher"


@pytest.mark.parametrize(
    "model",
    [
        "./absent",
        "a/b/c",
        "../absent",
        "/absent/x",
        "~/absent/x",
        "",
        "x/" + "n" * 300 + "/y",
        "a\0b",
    ],
)
def test_a_path_to_nothing_is_no_hub_name(folder: Path, model: str) -> None:
    if model:
        refused(folder, "does not exist.*Correct the path", model=model)
    else:
        refused(folder, "no config.json", model=model)


def test_what_the_hub_does_not_have_is_explained(folder: Path) -> None:
    refused(folder, r"(?s)'absent' cannot be loaded.*beside the recipe", model="absent")


def test_a_folder_without_a_model_is_explained(folder: Path) -> None:
    (folder / "empty").mkdir()
    refused(folder, "no config.json: name a folder that save_pretrained wrote", model="empty")
    (folder / "empty" / "weights.gguf").touch()
    refused(folder, "add gguf_file: weights.gguf", model="empty")
    refused(folder, "is a file.*gguf_file: weights.gguf", model="empty/weights.gguf")
    refused(folder, "no file 'x'.*weights.gguf", model="empty", gguf_file="x")


def test_a_folder_has_no_revision(folder: Path) -> None:
    refused(folder, "no revision 'main'", revision="main")


def test_pickled_weights_are_never_read(folder: Path) -> None:
    (folder / "teacher" / "model.safetensors").rename(folder / "teacher" / "pytorch_model.bin")
    refused(folder, "pytorch_model.bin holds pickled weights.*Convert it")


def bert() -> PreTrainedModel:
    return BertForMaskedLM(BertConfig(**SIZES, num_attention_heads=2))


def t5() -> PreTrainedModel:
    config = T5Config(vocab_size=16, d_model=8, d_ff=8, d_kv=4, num_layers=1, num_heads=2)
    return T5ForConditionalGeneration(config)


@pytest.mark.parametrize(
    ("build", "architecture"), [(bert, "BertForMaskedLM"), (t5, "T5ForConditionalGeneration")]
)
def test_a_model_that_is_no_causal_one_is_named(
    folder: Path, build: Any, architecture: str
) -> None:
    build().save_pretrained(folder / "other")
    refused(folder, f"'other' is a {architecture}.*not a causal.*decoder-only", model="other")
    with pytest.raises(UsageError, match=architecture):
        read_config(folder / "other")


def test_weights_are_never_made_up(folder: Path) -> None:
    """A classifier has no head over the vocabulary: transformers would draw a random one."""
    classifier = LlamaForSequenceClassification(llama().config)
    classifier.save_pretrained(folder / "classifier")
    refused(folder, "lacks 1 weights.*'lm_head.weight' first", model="classifier")


def test_weights_that_are_not_used_are_said(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_with = llama(num_hidden_layers=2)
    save_with.save_pretrained(folder / "deep")
    config = folder / "deep" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"num_hidden_layers": 1}))
    load_model(ModelSource(model="deep"), folder)
    assert "weights that a LlamaForCausalLM does not use" in caplog.text


def test_code_runs_only_when_it_is_trusted(folder: Path) -> None:
    config = folder / "teacher" / "config.json"
    brought = {"model_type": "own", "auto_map": {"AutoConfig": "own.Config"}}
    config.write_text(json.dumps(json.loads(config.read_text()) | brought))
    (folder / "teacher" / "own.py").write_text("raise SystemExit('it ran')")
    refused(folder, "trust_remote_code: true")
    with pytest.raises(UsageError, match="trust_remote_code: true"):
        load_tokenizer(ModelSource(model="teacher"), folder)


def test_an_unknown_architecture_is_named(folder: Path) -> None:
    config = folder / "teacher" / "config.json"
    config.write_text(json.dumps({"model_type": "of_the_future"}))
    refused(folder, "type 'of_the_future'.*Upgrade transformers")


def test_a_missing_tokenizer_is_explained(folder: Path) -> None:
    llama().save_pretrained(folder / "bare")
    with pytest.raises(UsageError, match="no tokenizer.*tokenizer.save_pretrained"):
        load_tokenizer(ModelSource(model="bare"), folder)


def test_a_configuration_is_read_from_file_or_folder(folder: Path) -> None:
    for path in (folder / "teacher", folder / "teacher" / "config.json"):
        assert read_config(path).hidden_size == SIZES["hidden_size"]
    with pytest.raises(UsageError, match="no model configuration at .*absent"):
        read_config(folder / "absent")


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")
@pytest.mark.filterwarnings("ignore:Model (has|with) .tie_word_embeddings")
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": ["q_proj"]},
        {"target_modules": ["q_proj", "lm_head"]},
        {"target_modules": ["q_proj", "embed_tokens"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    ],
    ids=["attention", "head", "embedding", "whole head"],
)
def test_adapters_are_saved_as_a_plain_model(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, tied: bool, settings: dict[str, Any]
) -> None:
    base = llama(tie_word_embeddings=tied)
    adapted: Any = peft.get_peft_model(base, peft.LoraConfig(r=2, **settings)).eval()
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter))
    ids = torch.arange(16)[None]
    before = adapted(ids).logits
    save(adapted, tokenizer, tmp_path / "plain")
    loaded = load_model(ModelSource(model="plain"), tmp_path)
    torch.testing.assert_close(loaded(ids).logits, before, rtol=1e-4, atol=1e-5)
    assert torch.equal(adapted(ids).logits, before)


OWN_CODE = """
from transformers import LlamaConfig, LlamaForCausalLM


class Config(LlamaConfig):
    model_type = "own"


class Model(LlamaForCausalLM):
    config_class = Config
"""


def with_own_code(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    names = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}
    config = json.loads(path.read_text()) | {"auto_map": names} | changes
    path.write_text(json.dumps(config))
    (folder / "own.py").write_text(OWN_CODE)


def test_trusted_code_runs_and_its_student_needs_it_too(
    folder: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    with_own_code(folder / "teacher", model_type="own")
    source = ModelSource(model="teacher", trust_remote_code=True)
    model = load_model(source, folder)
    assert type(model).__name__ == "Model" and "own" in type(model).__module__
    save(model, tokenizer, folder / "student")
    refused(folder, "names Python code to run", model="student")
    student = load_model(ModelSource(model="student", trust_remote_code=True), folder)
    ids = torch.arange(16)[None]
    assert torch.equal(student(ids).logits, model(ids).logits)


def test_what_is_loaded_without_its_code_is_saved_without_it(
    folder: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    with_own_code(folder / "teacher")
    refused(folder, "names Python code to run.*ignore_remote_code: true")
    source = ModelSource(model="teacher", ignore_remote_code=True)
    model = load_model(source, folder)
    assert isinstance(model, LlamaForCausalLM)
    save(model, load_tokenizer(source, folder), folder / "student")
    load_model(ModelSource(model="student"), folder)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        OSError(12, "Cannot allocate memory"),
        torch.OutOfMemoryError("CUDA out of memory."),
    ],
)
def test_want_of_memory_is_no_fault_of_the_files(
    folder: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr("nexus.architectures.AutoModelForCausalLM.from_pretrained", fail)
    with pytest.raises(type(error)) as raised:
        load_model(ModelSource(model="teacher"), folder)
    assert raised.value is error
