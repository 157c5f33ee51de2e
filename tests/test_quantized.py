"""A checkpoint in few bits and its record; what cannot be done is one line."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest

from nexus.errors import UsageError
from nexus.hub import ModelSource, load_model
from nexus.quantized import Few, quantize_checkpoint

SMALL = runpy.run_path(str(Path(__file__).with_name("workspace.py")))
ENCODERS = runpy.run_path(str(Path(__file__).with_name("encoders.py")))


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("workspace")
    SMALL["save"](folder / "teacher", SMALL["make_model"](layers=2, seed=1))
    return folder


def few(workspace: Path, name: str, **settings: Any) -> Few:
    return Few(str(workspace / "teacher"), workspace / name, **settings)


def silent(text: str) -> None:
    """Nobody listens."""


def test_what_is_written_says_what_it_is(workspace: Path) -> None:
    facts = quantize_checkpoint(few(workspace, "four", bits=4, group_size="32"), silent)
    assert json.loads((workspace / "four" / "quantization.json").read_text()) == facts
    assert facts["layers"] == 14 and set(facts["kept"]) == {"lm_head"}
    assert facts["proofs"][0]["outcome"] == "proved"
    model = load_model(ModelSource(model=str(workspace / "four"), dtype="auto"), Path())
    assert str(model.dtype) == "torch.bfloat16"


def test_bytes_shrink_with_bits(workspace: Path) -> None:
    sizes = [
        quantize_checkpoint(few(workspace, f"bits{bits}", bits=bits, group_size="32"), silent)[
            "bytes"
        ]
        for bits in (8, 4, 3)
    ]
    assert sizes == sorted(sizes, reverse=True)


def test_a_layer_that_cannot_be_quantised_is_named_with_the_reason(workspace: Path) -> None:
    kept = quantize_checkpoint(few(workspace, "some", bits=4), silent)["kept"]
    assert kept["model.layers.1.mlp.up_proj"].startswith("its rows of 32 are no multiple of")
    assert "model.layers.1.mlp.down_proj" not in kept


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"bits": 5}, "choose 8, 4, 3"),
        ({"bits": 4, "group_size": "7"}, r"divides no row .* choose 32, 16, 8"),
        ({"bits": 4, "group_size": "some"}, "give a number, or row"),
        ({}, "either bits"),
    ],
)
def test_what_cannot_be_is_one_line(workspace: Path, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said) as refusal:
        quantize_checkpoint(few(workspace, "never", **settings), silent)
    assert "\n" not in str(refusal.value) and not (workspace / "never").exists()


def test_nothing_is_quantised_twice_or_written_over(workspace: Path) -> None:
    quantize_checkpoint(few(workspace, "once", bits=8), silent)
    with pytest.raises(UsageError, match="not empty"):
        quantize_checkpoint(few(workspace, "once", bits=8), silent)
    with pytest.raises(UsageError, match="quantised already"):
        quantize_checkpoint(Few(str(workspace / "once"), workspace / "twice", bits=4), silent)


@pytest.mark.parametrize("name", ["BertForMaskedLM", "DistilBertForSequenceClassification"])
def test_an_encoder_is_written_in_few_bits(tmp_path: Path, name: str) -> None:
    """To see it fail: in quantizing._saved, load no encoders."""
    folder = ENCODERS["write_encoder"](tmp_path / "encoder", name)
    asked = Few(
        str(folder), tmp_path / "few", bits=4, group_size="16", text=(str(tmp_path / "text.jsonl"),)
    )
    facts = quantize_checkpoint(asked, lambda said: None)
    assert facts["layers"] >= 18 and facts["calibrated"]
    assert facts["proofs"][0]["outcome"] == "proved"
