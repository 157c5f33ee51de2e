"""The tools that are put to the test: the same short run, carried out in each one's documented way.

All train the same student, 2 layers of a random Llama, for 24 steps of 4 rows of 64 tokens, save
every second step and keep two checkpoints. HF Trainer alone has no teacher: it trains on the text.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import yaml
from material import half, load_teacher, load_text_tokenizer, token_rows, write_teacher
from mishaps import Mishap
from transformers import (
    AutoModelForCausalLM,
    PrinterCallback,
    Trainer,
    TrainingArguments,
)
from transformers.trainer_utils import get_last_checkpoint

from nexus import cli
from nexus.hub import save
from nexus.quickstart import documents

STEPS, SAVE_EVERY, KEEP = 24, 2, 2
ROWS, LENGTH = 4, 64
LEARNING_RATE = 1.0e-3


@dataclass(frozen=True)
class Job:
    """One start of a tool's command."""

    material: Path
    """Teacher, students, text."""
    run: Path
    """The directory that the tool writes into."""
    student: str = "student"
    mishap: Mishap | None = None
    nan_filter: bool = True
    """HF's `logging_nan_inf_filter`, on by default."""


@dataclass(frozen=True)
class Tool:
    """A tool, and where it puts what."""

    title: str
    play: Callable[[Job], None]
    final: str
    """The weights at the end of a run."""
    checkpoints: str
    """Its checkpoints, by a pattern that matches no others."""
    parts: Mapping[str, str]
    """The files of a checkpoint by what is in them, as patterns."""
    settings: str
    teaches: bool = True
    """Whether there is a teacher at all."""
    filters_nan: bool = False


def write_material(folder: Path) -> None:
    """Teacher, student, the student with a permuted tokenizer, text, and the recipe for Nexus."""
    write_teacher(None, folder / "teacher", tiny=True)
    student, tokenizer = (
        half(load_teacher(folder / "teacher")),
        load_text_tokenizer(folder / "teacher"),
    )
    save(student, tokenizer, folder / "student")
    shutil.copytree(folder / "student", folder / "permuted")
    permute(folder / "permuted" / "tokenizer.json")
    texts = [text for _, text in islice(documents(), 48)]
    for name, some in (("train", texts[:40]), ("heldout", texts[40:])):
        rows = "".join(json.dumps({"text": text[:2000]}) + "\n" for text in some)
        (folder / f"{name}.jsonl").write_text(rows)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE, sort_keys=False))


def permute(file: Path) -> None:
    """Give every word of a tokenizer the id of the next one, special tokens aside."""
    content = json.loads(file.read_text())
    special = {token["content"] for token in content["added_tokens"]}
    vocabulary = content["model"]["vocab"]
    words = [word for word in vocabulary if word not in special]
    ids = [vocabulary[word] for word in (*words[1:], words[0])]
    vocabulary |= dict(zip(words, ids, strict=True))
    file.write_text(json.dumps(content))


def play_trainer(job: Job) -> None:
    """HF Trainer, on the text alone."""
    settings = TrainingArguments(**_arguments(job))
    _carry_out(Trainer(_student(job), settings, _collate, train_dataset=_rows(job)), job)


def play_trl(job: Job) -> None:
    """TRL's GKD trainer on stored text (lambda = 0) with forward KL (beta = 0)."""
    from trl.experimental.gkd import GKDConfig, GKDTrainer

    settings = GKDConfig(
        **_arguments(job), bf16=False, max_length=LENGTH, lmbda=0.0, beta=0.0,
        gradient_checkpointing=False, activation_checkpointing=False,
    )  # fmt: skip
    trainer = GKDTrainer(
        _student(job), str(job.material / "teacher"), settings, _collate, _rows(job),
        processing_class=load_text_tokenizer(job.material / job.student),
    )  # fmt: skip
    _carry_out(trainer, job)


def play_nexus(job: Job) -> None:
    """`nexus distill`, in this process."""
    changes = (f"output={job.run}", f"student.model={job.student}")
    sets = [part for change in changes for part in ("--set", change)]
    sys.argv = ["nexus", "distill", str(job.material / "recipe.yaml"), *sets]
    cli.main()


def _arguments(job: Job) -> dict[str, Any]:
    return {
        "output_dir": str(job.run), "max_steps": STEPS, "per_device_train_batch_size": ROWS,
        "learning_rate": LEARNING_RATE, "warmup_steps": 2, "lr_scheduler_type": "cosine",
        "save_strategy": "steps", "save_steps": SAVE_EVERY, "save_total_limit": KEEP,
        "logging_steps": 1, "logging_nan_inf_filter": job.nan_filter, "report_to": [],
        "disable_tqdm": True, "use_cpu": True, "dataloader_pin_memory": False, "seed": 0,
    }  # fmt: skip


def _carry_out(trainer: Trainer, job: Job) -> None:
    """Train from the newest checkpoint if there is one, as transformers' own examples do."""
    trainer.remove_callback(PrinterCallback)
    last = get_last_checkpoint(job.run) if job.run.is_dir() else None
    trainer.train(resume_from_checkpoint=last)
    trainer.save_model()
    trainer.save_state()


def _student(job: Job) -> Any:
    return AutoModelForCausalLM.from_pretrained(job.material / job.student)


def _rows(job: Job) -> Any:
    from datasets import Dataset

    ids = token_rows(job.material / job.student, STEPS, ROWS, LENGTH).flatten(0, 1)
    return Dataset.from_dict({"input_ids": ids.tolist()})


def _collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    ids = torch.tensor([row["input_ids"] for row in rows])
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids.clone()}


RECIPE: dict[str, Any] = {
    "output": "run",
    "teacher": {"kind": "local", "model": "teacher"},
    "student": {"kind": "pretrained", "model": "student"},
    "data": {
        "sources": [{"kind": "jsonl", "path": "train.jsonl"}],
        "heldout": [{"kind": "jsonl", "path": "heldout.jsonl"}],
        "sequence_length": LENGTH,
        "over_long": "split",
    },
    "objectives": [{"kind": "output"}],
    "train": {
        "steps": STEPS,
        "tokens_per_step": ROWS * LENGTH,
        "micro_batch_rows": ROWS,
        "learning_rate": LEARNING_RATE,
        "warmup_steps": 2,
        "precision": "fp32",
        "save_every": SAVE_EVERY,
        "keep_checkpoints": KEEP,
        "dashboard": "none",
    },
    "evaluate": {"speed_seconds": 0, "samples": 1, "sample_tokens": 8},
    "check": {"stop": False},  # the teacher's weights are random: nothing could be learnt of it
}

_TRAINERS = {
    "weights": "model.safetensors",
    "optimiser": "optimizer.pt",
    "schedule": "scheduler.pt",
    "progress": "trainer_state.json",
    "random states": "rng_state.pth",
}

TOOLS = {
    "trainer": Tool(
        "HF Trainer", play_trainer, "model.safetensors", "checkpoint-*", _TRAINERS,
        "save_total_limit=2, resume_from_checkpoint=get_last_checkpoint(output_dir)",
        teaches=False, filters_nan=True,
    ),
    "trl": Tool(
        "TRL GKDTrainer", play_trl, "model.safetensors", "checkpoint-*", _TRAINERS,
        "the same, lmbda=0, beta=0", filters_nan=True,
    ),
    "nexus": Tool(
        "Nexus", play_nexus, "student/model.safetensors", "checkpoints/train/step-*",
        {
            "weights": "student.safetensors",
            "optimiser": "optimizer.safetensors",
            "progress": "state.json",
            "random states": "random*.safetensors",
            "manifest": "MANIFEST.json",
        },
        "nexus distill recipe.yaml",
    ),
}  # fmt: skip
"""All that are compared, in the order of the table."""
