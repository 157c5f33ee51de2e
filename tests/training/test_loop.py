"""A run is a function of its recipe: stopped and continued, on one process or more, it is one."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from nexus import durable
from nexus.batch import Batch
from nexus.errors import Interrupted
from nexus.objectives.output import Output
from nexus.objectives.task import Task
from nexus.schedule import Linear, weight_at
from nexus.signals import Headed, Signal, Signals
from nexus.teachers.local import LocalTeacher
from nexus.teachers.teacher import Teacher
from nexus.training.loop import train
from nexus.training.parallel import Parallel

ONE = Parallel()
SCHEDULED = (
    Task(weight=Linear(start=0.1, end=0.6)),
    Output(weight=Linear(start=0.9, end=0.4), temperature=2.0),
)
MEASURED = {"seconds", "tokens_per_second", "peak_memory_gib"}


class Silent(Teacher):
    """Must not be asked for anything."""

    provides = Signal.DISTRIBUTION | Signal.FULL_VOCABULARY
    vocabulary = 61

    def signals(self, batch: Batch, wanted: Signal) -> Signals:
        raise AssertionError("the teacher was asked")


def entries(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def repeatable(folder: Path) -> list[dict[str, Any]]:
    return [
        {name: value for name, value in entry.items() if name not in MEASURED}
        for entry in entries(folder)
    ]


def saved(folder: Path, step: int) -> dict[str, Tensor]:
    """Everything in a checkpoint."""
    files = sorted((folder / f"checkpoints/train/step-{step:06d}").glob("*.safetensors"))
    assert len(files) == 3
    return {f"{f.stem}.{name}": value for f in files for name, value in load_file(f).items()}


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


@pytest.fixture
def distilled(scene: SimpleNamespace, tmp_path: Path) -> Callable[..., tuple[Path, nn.Module]]:
    """Trains a student with dropout in a directory, from its newest checkpoint if there is one."""

    def run(name: str, seed: int = 0, **given: Any) -> tuple[Path, nn.Module]:
        stopping = given.pop("stopping", lambda: False)
        batches = given.pop("batches", scene.Fresh())
        student, folder = scene.make_model(seed=seed, dropout=0.2), tmp_path / name
        folder.mkdir(exist_ok=True)
        teacher = LocalTeacher(scene.make_model(4, 1))
        stage = scene.make_stage(folder, student, teacher, batches, SCHEDULED, **given)
        torch.manual_seed(seed)
        train(stage, ONE, stopping=stopping, quiet=True)
        return folder, student

    return run


@pytest.mark.parametrize("stop", [1, 3, 7])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_stopped_and_continued_is_uninterrupted(
    scene: SimpleNamespace, distilled: Callable[..., Any], stop: int, precision: str
) -> None:
    whole, student = distilled("whole", precision=precision)
    with pytest.raises(Interrupted, match=f"stopped after step {stop} of 8"):
        distilled("parts", precision=precision, stopping=scene.stop_after(stop))
    parts, continued = distilled("parts", seed=7, precision=precision)
    assert_same(saved(parts, 8), saved(whole, 8))
    assert_same(continued.state_dict(), student.state_dict())
    assert repeatable(parts) == repeatable(whole)
    assert [entry["step"] for entry in entries(parts)] == list(range(1, 9))


def test_killed_between_checkpoints_loses_only_the_steps_since(
    scene: SimpleNamespace, distilled: Callable[..., Any]
) -> None:
    class Killed(Exception):
        pass

    class Deadly:
        def take(self, step: int) -> list[Batch]:
            if step == 5:
                raise Killed
            return scene.Fresh().take(step)

    whole, _ = distilled("whole")
    with pytest.raises(Killed):
        distilled("killed", batches=Deadly())
    assert len(entries(whole.parent / "killed")) == 5
    asked: list[int] = []

    class Noted:
        def take(self, step: int) -> list[Batch]:
            asked.append(step)
            return scene.Fresh().take(step)

    killed, _ = distilled("killed", seed=7, batches=Noted())
    assert asked == [3, 4, 5, 6, 7]
    assert_same(saved(killed, 8), saved(whole, 8))
    assert repeatable(killed) == repeatable(whole)


def test_dropout_is_on_and_its_noise_is_part_of_the_state(
    scene: SimpleNamespace, distilled: Callable[..., Any]
) -> None:
    """Else the tests above would not notice a lost random state.

    To see it fail: in training/loop.py, `parallel.wrap(module.train())` →
    `parallel.wrap(module.eval())`.
    """
    one, _ = distilled("one")
    with pytest.raises(Interrupted):
        distilled("two", stopping=scene.stop_after(3))
    checkpoint = one.parent / "two/checkpoints/train/step-000003"
    with durable.directory(checkpoint) as aside:
        for file in checkpoint.iterdir():
            shutil.copy(file, aside)
        other = {"cpu": torch.Generator().manual_seed(1).get_state()}
        save_file(other, aside / "random-0.safetensors")
    two, _ = distilled("two")
    assert repeatable(two)[3] != repeatable(one)[3]


def test_a_finished_stage_is_not_trained_again(distilled: Callable[..., Any]) -> None:
    folder, student = distilled("run")
    before = (folder / "metrics.jsonl").read_bytes()

    class Untouched:
        def take(self, step: int) -> list[Batch]:
            raise AssertionError("a batch was taken")

    _, again = distilled("run", seed=7, batches=Untouched())
    assert_same(again.state_dict(), student.state_dict())
    assert (folder / "metrics.jsonl").read_bytes() == before


def test_a_stop_at_the_last_step_is_no_interruption(
    scene: SimpleNamespace, distilled: Callable[..., Any]
) -> None:
    folder, _ = distilled("run", stopping=scene.stop_after(8))
    assert len(entries(folder)) == 8


def test_checkpoints_come_when_said_and_go_when_old(distilled: Callable[..., Any]) -> None:
    folder, _ = distilled("run", keep_checkpoints=2)
    names = sorted(path.name for path in (folder / "checkpoints/train").iterdir())
    assert names == ["step-000006", "step-000008"]


def test_alpha_one_is_cross_entropy_bit_for_bit_and_leaves_the_teacher_alone(
    scene: SimpleNamespace, tmp_path: Path
) -> None:
    weights = []
    for objectives, teacher in (
        ((Task(weight=1.0),), None),
        ((Task(weight=1.0), Output(weight=0.0, temperature=2.0)), Silent()),
    ):
        student, folder = scene.make_model(), tmp_path / str(len(objectives))
        folder.mkdir()
        stage = scene.make_stage(folder, student, teacher, scene.Fresh(), objectives)
        train(stage, ONE, quiet=True)
        weights.append(student.state_dict())
        assert "kl" not in entries(folder)[0]
    assert_same(*weights)
    assert not torch.equal(weights[0]["lm_head.weight"], scene.make_model().lm_head.weight)


def test_alpha_one_is_plain_training(scene: SimpleNamespace, tmp_path: Path) -> None:
    """Against a loop of transformers' logits, PyTorch's loss and its AdamW."""
    ours, plain = scene.make_model(), scene.make_model()
    start = {name: p.detach().clone() for name, p in plain.named_parameters()}
    source = scene.Fresh(rows=2, micro=1)
    settings = {"steps": 3, "schedule": "constant", "warmup_steps": 0, "clip_gradient": 0.5}
    stage = scene.make_stage(tmp_path, ours, None, source, (Task(),), packed=False, **settings)
    train(stage, ONE, quiet=True)
    matrices = [p for p in plain.parameters() if p.ndim >= 2]
    vectors = [p for p in plain.parameters() if p.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": stage.settings.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-2, betas=stage.settings.betas)
    for step in range(3):
        group = source.take(step)
        count = sum(int(batch.target_count) for batch in group)
        for batch in group:
            logits = plain(batch.input_ids, attention_mask=(batch.documents >= 0).long()).logits
            loss = nn.functional.cross_entropy(
                logits.flatten(0, 1), batch.targets.flatten(), reduction="sum"
            )
            (loss / count).backward()
        nn.utils.clip_grad_norm_(plain.parameters(), 0.5)
        optimizer.step()
        optimizer.zero_grad()
    moved = [
        {name: p.detach() - start[name] for name, p in model.named_parameters()}
        for model in (ours, plain)
    ]
    # Not element by element: Adam makes a step of a gradient that is nothing but rounding.
    assert scene.distance(*moved) < 1e-3


def test_the_teacher_stays_as_it_was(scene: SimpleNamespace, tmp_path: Path) -> None:
    model = scene.make_model(4, 1, dropout=0.5)
    teacher = LocalTeacher(model)
    (batch,) = scene.in_rows([[document] for document in scene.make_documents([9, 20])])
    wanted = Signal.DISTRIBUTION
    before = teacher.signals(batch, wanted).distribution
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    train(scene.make_stage(tmp_path, scene.make_model(), teacher, scene.Fresh()), ONE, quiet=True)
    model.train()  # whatever others do to it
    after = teacher.signals(batch, wanted).distribution
    assert isinstance(before, Headed) and isinstance(after, Headed)
    assert torch.equal(before.hidden, after.hidden)
    assert_same(model.state_dict(), weights)
    assert all(p.grad is None and not p.requires_grad for p in model.parameters())


def test_weights_follow_their_schedule(distilled: Callable[..., Any]) -> None:
    folder, _ = distilled("run")
    for entry in entries(folder):
        step = entry["step"] - 1
        expected = sum(
            weight_at(term.weight, step, 8) * entry["terms"][term.label] for term in SCHEDULED
        )
        assert entry["loss"] == pytest.approx(expected, rel=1e-5)


def test_the_learning_rate_of_each_step(distilled: Callable[..., Any]) -> None:
    given = {"learning_rate": 0.01, "warmup_steps": 4, "steps": 12, "final_share": 0.1}
    folder, _ = distilled("cosine", **given)
    rates = [entry["learning_rate"] for entry in entries(folder)]
    assert rates[:4] == pytest.approx([0.0025, 0.005, 0.0075, 0.01])
    half = [0.01 * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * k / 8))) for k in range(8)]
    assert rates[4:] == pytest.approx(half)


@pytest.mark.parametrize(
    ("schedule", "after"),
    [
        ("constant", [1.0] * 8),
        ("linear", [1 - k / 8 for k in range(8)]),
        ("wsd", [1.0] * 6 + [1.0, 0.5]),
    ],
)
def test_other_schedules(distilled: Callable[..., Any], schedule: str, after: list[float]) -> None:
    given = {"learning_rate": 1.0e-3, "warmup_steps": 2, "steps": 10, "decay_share": 0.2}
    folder, _ = distilled("run", schedule=schedule, **given)
    rates = [entry["learning_rate"] for entry in entries(folder)]
    assert rates == pytest.approx([0.5e-3, 1e-3, *(1e-3 * share for share in after)])


def test_the_gradient_is_clipped_to_its_largest_norm(distilled: Callable[..., Any]) -> None:
    """What is reported is the norm before; Adam hides the scale, so weight decay tells."""
    folder, _ = distilled("run", steps=1, warmup_steps=0)
    clipped, _ = distilled("clipped", steps=1, warmup_steps=0, clip_gradient=1e-3)
    norms = [entries(each)[0]["gradient_norm"] for each in (folder, clipped)]
    assert norms[0] == norms[1] > 1e-3
    first = [saved(each, 1)["optimizer.0.exp_avg"].norm().item() for each in (folder, clipped)]
    assert first[1] == pytest.approx(first[0] * 1e-3 / norms[0], rel=1e-3)


def test_a_student_moves_towards_its_teacher(scene: SimpleNamespace, tmp_path: Path) -> None:
    """Real text, real training: first the teacher learns to speak, then the student from it."""
    learn = (Task(),)
    long = {"steps": 60, "warmup_steps": 5, "clip_gradient": 1.0, "tokens_per_step": 256}
    teacher, student = scene.make_model(4, 1), scene.make_model(2, 2)
    folders = [tmp_path / name for name in ("teacher", "student")]
    for folder in folders:
        folder.mkdir()
    stage = scene.make_stage(folders[0], teacher, None, scene.Spoken(), learn, **long)
    train(stage, ONE, quiet=True)
    said = [entry["loss"] for entry in entries(folders[0])]
    assert said[-1] < 0.6 * said[0]
    heldout = scene.Spoken().take(10_000)
    before = kl(scene, teacher, student, heldout)
    stage = scene.make_stage(
        folders[1], student, LocalTeacher(teacher), scene.Spoken(), (Output(),), **long
    )
    train(stage, ONE, quiet=True)
    after = kl(scene, teacher, student, heldout)
    assert after < 0.25 * before
    watched = [entry["kl"] for entry in entries(folders[1])]
    assert watched[-1] < 0.25 * watched[0]
    assert entries(folders[1])[-1]["agreement"] > entries(folders[1])[0]["agreement"] + 0.3


@torch.no_grad()
def kl(scene: SimpleNamespace, teacher: nn.Module, student: nn.Module, group: Any) -> float:
    """Mean KL(teacher || student), from the models' own logits."""
    values = []
    for batch in group:
        logits = [m.eval()(batch.input_ids).logits[batch.is_target] for m in (teacher, student)]
        log_p, log_q = (each.log_softmax(-1) for each in logits)
        values.append((log_p.exp() * (log_p - log_q)).sum(-1))
    return torch.cat(values).mean().item()
