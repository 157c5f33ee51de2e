"""Folders of strangers are refused by name before anything in them is loaded or run."""

from __future__ import annotations

import json
import os
import re
import runpy
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from nexus.errors import UsageError
from nexus.hub import ModelSource, load_config, load_model, load_tokenizer
from nexus.inspection.folder import inspect

HERE = Path(__file__).parent
CORPUS = runpy.run_path(str(HERE.parent / "hostile_models.py"))
HOSTILE, CANARY, with_code = CORPUS["HOSTILE"], CORPUS["CANARY"], CORPUS["with_code"]
WORKSPACE = runpy.run_path(str(HERE.parent / "workspace.py"))

MOST_SECONDS = 10
"""What refusing may take."""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A sound model's folder."""
    WORKSPACE["save"](tmp_path / "model", WORKSPACE["make_model"](layers=1, seed=0))
    return tmp_path / "model"


def test_the_corpus_is_large() -> None:
    assert len(HOSTILE) >= 50


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_folder_is_refused_in_one_line_and_nothing_runs(name: str, model: Path) -> None:
    """Fails where `_inspected` in hub.py does not call `inspect`."""
    spoil, says, source = HOSTILE[name]
    spoil(model)
    began = time.monotonic()
    with pytest.raises(UsageError) as refusal:
        load_tokenizer(ModelSource(model="model", **source), model.parent)
        load_model(ModelSource(model="model", **source), model.parent)
    assert time.monotonic() - began < MOST_SECONDS
    assert re.search(says, str(refusal.value)), refusal.value
    assert "\n" not in str(refusal.value) and "model" in str(refusal.value)
    assert not (model.parent / CANARY).exists()


def test_pickles_beside_safetensors_are_left_alone(model: Path) -> None:
    weights = (model / "model.safetensors").read_bytes()
    for file in ("pytorch_model.bin", "training_args.bin", "optimizer.pt"):
        CORPUS["pickled"](file)(model)
        (model / "model.safetensors").write_bytes(weights)
    load_model(ModelSource(model="model"), model.parent)
    assert not (model.parent / CANARY).exists()


def test_code_that_is_ignored_does_not_run(model: Path) -> None:
    """The canary does run where it is trusted, or the other tests would show nothing."""
    with_code(**CORPUS["AUTO"])(model)
    source = ModelSource(model="model", ignore_remote_code=True)
    assert type(load_model(source, model.parent)).__module__.startswith("transformers.")
    assert not (model.parent / CANARY).exists()
    with suppress(Exception):
        AutoModelForCausalLM.from_pretrained(model, trust_remote_code=True)
    assert (model.parent / CANARY).exists()


def test_files_of_the_hubs_cache_are_links_to_its_blobs(model: Path) -> None:
    """But nothing beside the blobs of the same model."""
    cache = model.parent / "models--org--name"
    snapshot = cache / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (cache / "blobs").mkdir()
    for number, path in enumerate(sorted(model.iterdir())):
        path.rename(cache / "blobs" / str(number))
        (snapshot / path.name).symlink_to(Path("../../blobs") / str(number))
    inspect(snapshot)
    (cache / "secret.json").write_text("{}")
    (snapshot / "vocab.json").unlink(missing_ok=True)
    (snapshot / "vocab.json").symlink_to("../../secret.json")
    with pytest.raises(UsageError, match="a link out of the model's folder"):
        inspect(snapshot)


def test_a_folder_reached_by_a_link_is_that_folder(model: Path) -> None:
    (model.parent / "alias").symlink_to(model)
    inspect(model.parent / "alias")
    (model / "alias.json").symlink_to("config.json")
    inspect(model)


def test_what_a_run_leaves_beside_a_model_is_no_fault(model: Path) -> None:
    (model.parent / "runs").mkdir()
    (model / "runs").symlink_to(model.parent / "runs")
    (model / "checkpoint-5").mkdir()
    os.mkfifo(model / "checkpoint-5" / "pipe")
    inspect(model)


@pytest.mark.parametrize("trusted", [True, False])
def test_weights_that_fit_no_machine_are_refused(model: Path, trusted: bool) -> None:
    """A sparse file may be as long as it says, and hold nothing."""
    size = 2**43
    header = {"w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}
    raw = json.dumps(header).encode()
    with (model / "model.safetensors").open("wb") as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        file.truncate(8 + len(raw) + size)
    with pytest.raises(UsageError, match="bytes in float32.*times its memory"):
        inspect(model, code=trusted)


def test_sound_models_load_as_before(model: Path) -> None:
    source: Any = ModelSource(model="model")
    assert load_config(source, model.parent).num_hidden_layers == 1
    loaded: Any = load_model(source, model.parent)
    again: Any = AutoModelForCausalLM.from_pretrained(model)
    ids = torch.arange(8)[None]
    assert torch.equal(loaded(ids).logits, again(ids).logits)
