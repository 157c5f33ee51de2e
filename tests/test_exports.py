"""Exports that another runtime runs: they answer as the model does."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from nexus import exports
from nexus.errors import UsageError
from nexus.exports import _RUNTIMES, FORMATS, Exported, export

SMALL = runpy.run_path(str(Path(__file__).with_name("workspace.py")))

# What transformers' exporter and the libraries below it warn of is not ours to mend.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module", params=FORMATS)
def to(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    for needed in _RUNTIMES[name].NEEDED:
        if find_spec(needed) is None:
            pytest.skip(f"{needed} is not installed")
    return name


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("model")
    SMALL["save"](path, SMALL["make_model"](layers=2, seed=1))
    return path


@pytest.fixture(scope="module")
def halved(folder: Path, to: str) -> Path:
    out = folder.parent / f"halved-{to}"
    export(folder, out, to=to, bits=16, seconds=0.5)
    return out


def own_logits(ids: torch.Tensor, *, half: str | None = None) -> torch.Tensor:
    """The model's, of weights as the format that is named has them at 16 bits."""
    model = SMALL["make_model"](layers=2, seed=1).eval()
    if half == "openvino":
        model = model.half().float()
    elif half == "onnx":  # which keeps vectors as they are, those of positions among them
        for weight in model.parameters():
            weight.data = weight.data.half().float() if weight.dim() > 1 else weight.data
    with torch.no_grad():
        logits: torch.Tensor = model(ids).logits
    return logits


def ids(length: int = 24) -> torch.Tensor:
    return torch.randint(259, (2, length), generator=torch.Generator().manual_seed(5))


def test_sixteen_bits_are_the_model_in_float16(halved: Path, to: str) -> None:
    found = Exported(halved, exact=True).read(ids())
    torch.testing.assert_close(found, own_logits(ids(), half=to), atol=1e-4, rtol=1e-4)


def test_text_in_parts_is_text(halved: Path) -> None:
    model = Exported(halved, threads=1, exact=True)
    whole = model.read(ids())
    for _ in range(2):  # the second time, it has forgotten the first
        model.forget()
        parts = torch.cat([model.read(some) for some in ids().split([7, 1, 1, 15], dim=1)], 1)
        torch.testing.assert_close(parts, whole, atol=1e-4, rtol=1e-4)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="a process has all processors")
def test_one_processor_is_enough(halved: Path) -> None:
    """OpenVINO, left alone, dies on a single thread where the processor has AMX."""
    script = (
        "import os, sys, torch; from pathlib import Path; from nexus.exports import Exported;"
        "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))});"
        "ids = torch.tensor(eval(sys.argv[2]));"
        "print(Exported(Path(sys.argv[1])).read(ids).tolist())"
    )
    prompt = ids(6)
    command = [sys.executable, "-c", script, str(halved), str(prompt.tolist())]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found, exact = torch.tensor(json.loads(done.stdout)), Exported(halved, exact=True).read(prompt)
    torch.testing.assert_close(found, exact, atol=0.1, rtol=0.1)  # of bfloat16, if of no more


def test_it_writes_what_the_model_writes(halved: Path) -> None:
    model = SMALL["make_model"](layers=2, seed=1).half().float().eval()
    prompt = ids(6)
    expected = model.generate(
        prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=8, min_new_tokens=8,
        do_sample=False, eos_token_id=None,
    )  # fmt: skip
    assert torch.equal(Exported(halved, exact=True).generate(prompt, 8), expected[:, 6:])


def test_four_bits_round_layers_and_tell_which_they_did_not(
    folder: Path, tmp_path: Path, to: str
) -> None:
    facts: dict[str, Any] = export(
        folder, tmp_path / "four", to=to, bits=4, group_size=32, seconds=0.5
    )
    assert facts["weights"] == {"i4" if to == "openvino" else "u4": 14, "u8": 2}
    assert facts["wider"] == {"model.embed_tokens": "u8", "lm_head": "u8"}
    assert json.loads((tmp_path / "four" / "export.json").read_text()) == facts
    found = Exported(tmp_path / "four", exact=True).read(ids())
    own = own_logits(ids())
    away = float((found - own).norm() / own.norm())
    # Of a group of 32 normal weights the largest is about 2.1 σ: steps of σ/3.5, errors of σ/12.
    assert 0.02 < away < 0.6


def test_it_is_measured_beside_the_model_on_heldout_text(folder: Path, tmp_path: Path) -> None:
    text = tmp_path / "heldout.jsonl"
    SMALL["write_rows"](text, [{"text": one} for one in SMALL["sentences"](8)])
    near, far = (
        export(folder, tmp_path / f"{bits}", bits=bits, group_size=group, heldout=(str(text),),
               seconds=0.5)
        for bits, group in ((16, None), (4, 32))
    )  # fmt: skip
    assert near["tokens"] == far["tokens"] > 100 and near["text"] == far["text"]
    assert near["kl"]["unit"] == "nats" and near["kl"]["n"] == 8
    assert near["kl"]["value"] < 0.01 < far["kl"]["value"]
    assert near["agreement"]["value"] > 0.9
    decode = near["decode"]
    assert decode["model"]["value"] > 0 and decode["runtime"]["value"] > 0
    assert decode["model_dtype"] == "float32" and decode["threads"] == torch.get_num_threads()


def test_eight_bits_lie_between_sixteen_and_four(folder: Path, tmp_path: Path, to: str) -> None:
    facts = export(folder, tmp_path / "eight", to=to, bits=8, seconds=0.5)
    assert facts["weights"] == ({"u8": 16} if to == "openvino" else {"u8": 15, "f16": 1})
    found = Exported(tmp_path / "eight", exact=True).read(ids())
    own = own_logits(ids())
    # A row's largest of 64 normal weights is about 2.4 σ: steps of σ/53, errors of σ/180 a layer.
    assert 0.0005 < float((found - own).norm() / own.norm()) < 0.06


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"to": "gguf"}, "--to is gguf: choose openvino, onnx"),
        ({"bits": 5}, "--bits is 5: choose 16, 8, 4"),
        ({"bits": 8, "group_size": 32}, "--group-size goes with --bits 4"),
        ({"bits": 4, "group_size": 0}, "--group-size is 0: choose 32, 64 or 128"),
        ({"to": "onnx", "bits": 16, "group_size": 32}, "--group-size goes with --bits 8 or 4"),
        ({"to": "onnx", "group_size": 48}, "--group-size is 48: choose 16, 32, 64, 128 or 256"),
    ],
)
def test_a_mistake_is_told_before_anything_loads(
    asked: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=said):
        export("absent", tmp_path / "out", **asked)


def test_what_is_there_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("mine")
    with pytest.raises(UsageError, match="is there and not empty"):
        export("absent", tmp_path)


def test_a_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exports, "find_spec", lambda name: None)
    for asked in (lambda: export("absent", tmp_path / "out"), lambda: Exported(tmp_path)):
        with pytest.raises(UsageError, match=r"pip install 'nexus-distillation\[openvino\]'"):
            asked()
    (tmp_path / "model.onnx").touch()
    for asked in (
        lambda: export("absent", tmp_path / "out", to="onnx"),
        lambda: Exported(tmp_path),
    ):
        with pytest.raises(UsageError, match=r"pip install 'nexus-distillation\[onnx\]'"):
            asked()


def test_a_folder_of_something_else_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exports, "find_spec", lambda name: name)
    with pytest.raises(UsageError, match="it lacks openvino_model.xml and model.onnx"):
        Exported(tmp_path)


@pytest.mark.skipif(find_spec("nncf") is None, reason="OpenVINO is not installed")
def test_groups_that_no_row_is_made_of_are_refused(folder: Path, tmp_path: Path) -> None:
    said = "--group-size is 48, and the layers' rows are 32, 64 long: choose a divisor, 32 at most"
    with pytest.raises(UsageError, match=said):
        export(folder, tmp_path / "out", bits=4, group_size=48)


@pytest.mark.skipif(find_spec("nncf") is None, reason="OpenVINO is not installed")
def test_rows_that_do_not_come_out_even_stay_and_are_named(folder: Path, tmp_path: Path) -> None:
    facts = export(folder, tmp_path / "out", bits=4, group_size=64, seconds=0.5)
    assert facts["weights"]["i4"] == 2  # of two layers, what leads down from 64 neurons
    assert {"model.layers.0.mlp.up_proj", "model.layers.1.self_attn.q_proj"} <= set(facts["wider"])
    assert not any("down_proj" in name for name in facts["wider"])
