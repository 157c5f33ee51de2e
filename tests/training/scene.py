"""Small models, documents and stages to train, for tests and for the processes they start.

Loaded with `runpy.run_path`, since tests are no package.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.distributed.tensor import DTensor
from transformers import LlamaConfig, LlamaForCausalLM

from nexus.batch import Batch
from nexus.data.chat import Example, stable_key
from nexus.data.loader import collate
from nexus.objectives.output import Output
from nexus.objectives.task import Task
from nexus.objectives.weighted_sum import WeightedSum
from nexus.teachers.local import LocalTeacher
from nexus.teachers.teacher import Teacher
from nexus.training.fsdp import Sharded, shard
from nexus.training.loop import Stage, take_step
from nexus.training.module import DistillationModule
from nexus.training.parallel import Parallel
from nexus.training.settings import TrainSpec

VOCABULARY = 61
BOTH = (Task(weight=0.3), Output(weight=0.7, temperature=2.0))


def make_model(
    layers: int = 2, seed: int = 0, *, dropout: float = 0.0, tied: bool = False
) -> LlamaForCausalLM:
    """A Llama of a few thousand weights, large enough ones to prefer some tokens."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        initializer_range=0.2,
        attention_dropout=dropout,
        tie_word_embeddings=tied,
    )
    return LlamaForCausalLM(config).eval()


def make_documents(lengths: Sequence[int], seed: int = 0) -> list[Example]:
    """Random tokens, of which about a third are no targets."""
    generator = np.random.default_rng(seed)
    return [
        make_document(generator.integers(0, VOCABULARY, length), generator.random(length) > 0.3)
        for length in lengths
    ]


def make_document(ids: Any, is_target: Any = None, place: str = "here") -> Example:
    ids = np.asarray(ids, dtype=np.int32)
    targets = np.ones(len(ids), dtype=bool) if is_target is None else np.asarray(is_target)
    parts = np.zeros(len(ids), dtype=np.int8)
    return Example(ids, targets, parts, task="", key=stable_key(ids, ""), place=place)


def in_rows(rows: Sequence[Sequence[Example]], length: int = 24, micro: int = 99) -> list[Batch]:
    """Rows of documents as micro-batches of at most `micro` rows."""
    starts = range(0, len(rows), micro)
    return [collate(rows[start : start + micro], length, 0, ("",)) for start in starts]


@dataclass(frozen=True)
class Always:
    """A source of the same batches at every step."""

    group: list[Batch]

    def take(self, step: int) -> list[Batch]:
        return self.group


@dataclass(frozen=True)
class Fresh:
    """Other random rows at every step, in micro-batches, of which `rank` gets its part."""

    rows: int = 4
    micro: int = 2
    rank: int = 0
    world: int = 1

    def take(self, step: int) -> list[Batch]:
        documents = make_documents([17] * self.rows, seed=1000 + step)
        own = len(documents) // self.world
        mine = documents[self.rank * own : (self.rank + 1) * own]
        return in_rows([[document] for document in mine], micro=self.micro)


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """Also of one that is spread over the processes, which call this together."""
    value = tensor.detach()
    return value.full_tensor() if isinstance(value, DTensor) else value.clone()


class Recorder(torch.optim.SGD):
    """Keeps each step's gradient and changes nothing."""

    def __init__(self, module: nn.Module) -> None:
        named = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
        super().__init__([p for _, p in named], lr=1.0)
        self.named, self.gradients = named, list[dict[str, torch.Tensor]]()

    def step(self, closure: Any = None) -> None:
        self.gradients.append({name: whole(p.grad) for name, p in self.named if p.grad is not None})


def make_settings(**changed: Any) -> TrainSpec:
    values = {
        "steps": 8,
        "tokens_per_step": 96,
        "precision": "fp32",
        "warmup_steps": 2,
        "learning_rate": 1e-2,
        "clip_gradient": 1e9,
        "save_every": 3,
        "dashboard": "none",
    }
    return TrainSpec.parse({**values, **changed})


def make_stage(
    folder: Path,
    student: nn.Module,
    teacher: Teacher | None,
    batches: Any,
    objectives: Sequence[Any] = BOTH,
    *,
    packed: bool = True,
    name: str = "train",
    **settings: Any,
) -> Stage:
    module = DistillationModule(student, WeightedSum(tuple(objectives)), VOCABULARY, packed=packed)
    return Stage(name, module, teacher, batches, make_settings(**settings), folder)


def step_gradient(
    group: list[Batch],
    student: nn.Module | None = None,
    *,
    teacher: Teacher | None = None,
    objectives: Sequence[Any] = BOTH,
    packed: bool = True,
    parallel: Parallel | None = None,
    spread: bool = False,
    **settings: Any,
) -> dict[str, torch.Tensor]:
    """The gradient that one optimiser step would apply; `spread` shards student and teacher."""
    student = make_model() if student is None else student
    teacher = LocalTeacher(make_model(4, 1), packed=packed) if teacher is None else teacher
    parallel = parallel or Parallel()
    stage = make_stage(
        Path(), student, teacher, Always(group), objectives, packed=packed, **settings
    )
    if spread:
        spread_out(stage)
    recorder = Recorder(stage.module)
    take_step(stage, parallel.wrap(stage.module.train()), recorder, 0, parallel)
    return recorder.gradients[0]


def spread_out(stage: Stage) -> tuple[Sharded, Sharded]:
    """Shard the stage's student and teacher over all processes."""
    assert isinstance(stage.teacher, LocalTeacher)
    teacher = shard(stage.teacher.speaker, stage.teacher.model)
    return shard(stage.module, stage.module.student), teacher


def distance(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """How far two gradients are apart, relative to their length."""
    assert one.keys() == other.keys()
    gaps = torch.cat([(one[name] - other[name]).double().flatten() for name in one])
    length = torch.cat([value.double().flatten() for value in other.values()]).norm()
    return float(gaps.norm() / length)


def stop_after(steps: int) -> Callable[[], bool]:
    """True from the `steps`-th time it is asked."""
    asked: list[None] = []

    def stopping() -> bool:
        asked.append(None)
        return len(asked) >= steps

    return stopping


SUBJECTS, VERBS = ("the cat", "a dog", "my aunt", "no king"), ("sees", "likes", "bites", "finds")
LETTERS = sorted(set(" .".join((*SUBJECTS, *VERBS))))


@dataclass(frozen=True)
class Spoken:
    """Rows of small sentences, a token a letter; other ones at every step."""

    rows: int = 8
    length: int = 32

    def take(self, step: int) -> list[Batch]:
        generator = np.random.default_rng(step)
        rows = []
        for _ in range(self.rows):
            words = [generator.choice(each) for _ in range(4) for each in (SUBJECTS, VERBS)]
            ids = [LETTERS.index(letter) for letter in " ".join(words)]
            rows.append([make_document(ids[: self.length])])
        return in_rows(rows, self.length)
