"""No NaN and no infinity reaches the weights: skipped, gone back from, and at last refused."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from nexus.batch import Batch
from nexus.errors import Interrupted
from nexus.objectives.output import Output
from nexus.objectives.task import Task
from nexus.signals import Headed, Signal, Signals
from nexus.teachers.local import LocalTeacher
from nexus.training import loop
from nexus.training.guard import Diverged, is_finite
from nexus.training.parallel import Parallel

SOURCE = Path(loop.__file__).parents[1]
MEASURED = {"seconds", "tokens_per_second", "peak_memory_gib"}
BAD = math.nan, math.inf
NOW: list[Fate] = []
"""The fate of the run at hand."""


@dataclass
class Fate:
    """Where something goes wrong: a function of step and learning rate, as in a real run."""

    steps: frozenset[int]
    """Counted from 1."""
    kind: str = "teacher"
    value: float = math.nan
    even_at_lower_rates: bool = False
    step: int = 0
    rate: float = 1.0

    @property
    def strikes(self) -> bool:
        return self.step in self.steps and (self.rate == 1.0 or self.even_at_lower_rates)

    def on(self, kind: str, tensor: Tensor) -> Tensor:
        """`tensor`, with one value of it spoilt if it is time."""
        if kind != self.kind or not self.strikes or not tensor.numel():
            return tensor
        spoilt = tensor.clone()
        spoilt.view(-1)[-1] = self.value
        return spoilt


class Teacher(LocalTeacher):
    fate: Fate

    def signals(self, batch: Batch, wanted: Signal) -> Signals:
        told = super().signals(batch, wanted).distribution
        assert isinstance(told, Headed)
        return Signals(Headed(self.fate.on("teacher", told.hidden), told.head))


@dataclass
class Run:
    """Trains a student under some fate, from the newest checkpoint in its directory."""

    scene: SimpleNamespace
    folder: Path
    monkeypatch: pytest.MonkeyPatch
    fate: Fate
    noticed: list[tuple[int, str, str]] = field(default_factory=list)

    def __call__(self, seed: int = 0, source: Any = None, **given: Any) -> nn.Module:
        fate, scene = self.fate, self.scene
        student = scene.make_model(seed=seed, dropout=0.2)
        teacher = Teacher(scene.make_model(4, 1))
        teacher.fate = fate
        stopping = given.pop("stopping", lambda: False)
        self.folder.mkdir(exist_ok=True)
        student.lm_head.weight.register_hook(lambda gradient: fate.on("gradient", gradient))
        set_rate = loop.set_learning_rate

        def noting(optimizer: Any, settings: Any, step: int, rate: float = 1.0) -> None:
            fate.step, fate.rate = step + 1, rate
            set_rate(optimizer, settings, step, rate)

        def step_and_spoil(self: Any, closure: Any = None) -> None:
            real_step(self, closure)
            with torch.no_grad():
                student.lm_head.weight.copy_(fate.on("weight", student.lm_head.weight))

        real_step = torch.optim.AdamW.step
        objectives = (Spoilt(weight=0.4), Output(weight=0.6, temperature=2.0))
        NOW[:] = [fate]
        stage = scene.make_stage(
            self.folder, student, teacher, source or scene.Fresh(), objectives, **given
        )
        torch.manual_seed(seed)
        with self.monkeypatch.context() as patch:
            patch.setattr(loop, "set_learning_rate", noting)
            patch.setattr(torch.optim.AdamW, "step", step_and_spoil)
            loop.train(
                stage, Parallel(), stopping=stopping, quiet=True,
                notice=lambda *what: self.noticed.append(what),
            )  # fmt: skip
        return student  # type: ignore[no-any-return]

    @property
    def lines(self) -> list[dict[str, Any]]:
        """metrics.jsonl, read as strictly as JSON is defined, without what is measured."""

        def refuse(constant: str) -> None:
            raise AssertionError(f"{constant} is no JSON")

        text = (self.folder / "metrics.jsonl").read_text()
        entries = [json.loads(line, parse_constant=refuse) for line in text.splitlines()]
        return [{k: v for k, v in entry.items() if k not in MEASURED} for entry in entries]

    @property
    def checkpoints(self) -> dict[str, dict[str, Tensor]]:
        folders = (self.folder / "checkpoints/train").iterdir()
        return {each.name: load_file(each / "student.safetensors") for each in folders}


class Spoilt(Task):
    """The task, under the fate of the run at hand."""

    def per_token(self, *given: Any) -> Tensor:
        return NOW[0].on("term", super().per_token(*given))


@pytest.fixture
def run(
    scene: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Run]:
    def make(name: str, steps: Any = (), **fate: Any) -> Run:
        return Run(scene, tmp_path / name, monkeypatch, Fate(frozenset(steps), **fate))

    return make


def same(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(*pair) for pair in pairs)


@pytest.mark.parametrize("value", BAD, ids=str)
@pytest.mark.parametrize("kind", ["teacher", "term", "gradient"])
def test_a_bad_step_moves_no_weight_and_hides_nowhere(
    run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, kind: str, value: float
) -> None:
    """As if the optimiser had not been called in that step, and everything else had been as ever.

    To see it fail: in loop.py take the optimiser's step whether or not there are bad terms; or log
    `values` without `strict`; or log 0.0 for what is not finite.
    """
    struck = run("struck", {4}, kind=kind, value=value)
    student = struck()

    calls: list[None] = []
    real_step = torch.optim.AdamW.step

    def all_but_the_fourth(self: Any, closure: Any = None) -> None:
        calls.append(None)
        if len(calls) != 4:
            real_step(self, closure)

    reference = run("reference")
    monkeypatch.setattr(torch.optim.AdamW, "step", all_but_the_fourth)
    assert same(student, reference()) and is_finite(student)

    lines, sound = struck.lines, reference.lines
    assert [line["step"] for line in lines] == list(range(1, 9))
    assert [line["step"] for line in lines if "skipped" in line] == [4]
    assert [line for line in lines if line["step"] != 4] == sound[:3] + sound[4:]
    bad = lines[3]
    said = {"teacher": bad.get("teacher"), "term": bad["loss"], "gradient": bad["gradient_norm"]}
    assert bad["skipped"] is True and said[kind] in ("nan", "inf")
    name = {"teacher": "teacher", "term": "task", "gradient": "gradient_norm"}[kind]
    assert f"{name} is {said[kind]}" in bad["why"]
    assert [step for step, what, _ in struck.noticed if name in what] == [4]
    assert all(
        value.isfinite().all()
        for checkpoint in struck.checkpoints.values()
        for value in checkpoint.values()
    )


def test_the_batch_of_a_bad_step_is_kept_with_the_places_of_its_rows(
    scene: SimpleNamespace, run: Callable[..., Run]
) -> None:
    """One row in four is bad: the one with the token that the teacher cannot bear."""
    documents = scene.make_documents([9, 24, 17, 5], seed=5)
    documents = [
        scene.make_document(document.ids % 60, document.is_target, f"text.jsonl:{number}")
        for number, document in enumerate(documents, 1)
    ]
    documents[2].ids[4] = 60
    batches = scene.in_rows([[document] for document in documents], micro=2)

    class Allergic(Fate):
        def on(self, kind: str, tensor: Tensor) -> Tensor:
            return tensor

    struck = run("struck")
    struck.fate = Allergic(frozenset())
    hear = Teacher.signals

    def choke(self: Teacher, batch: Batch, wanted: Signal) -> Signals:
        told = hear(self, batch, wanted).distribution
        assert isinstance(told, Headed)
        there = (batch.input_ids == 60).any(1, keepdim=True).expand_as(batch.is_target)
        spoilt = torch.where(there[batch.is_target][:, None], math.nan, told.hidden)
        return Signals(Headed(spoilt, told.head))

    struck.monkeypatch.setattr(Teacher, "signals", choke)
    with pytest.raises(Diverged, match=r"teacher is nan in rows with text\.jsonl:3 \(see bad-"):
        struck(source=scene.Always(batches), max_bad_steps=1)
    kept = load_file(struck.folder / "bad-batch-train-000001.safetensors")
    for name in ("input_ids", "targets", "position_ids", "documents"):
        assert torch.equal(kept[name], torch.cat([getattr(batch, name) for batch in batches]))
    account = json.loads((struck.folder / "bad-batch-train-000001.json").read_text())
    assert [row["finite"] for row in account["rows"]] == [True, True, False, True]
    assert [row["places"] for row in account["rows"]] == [[f"text.jsonl:{n}"] for n in (1, 2, 3, 4)]
    assert [row["keys"] for row in account["rows"]] == [[document.key] for document in documents]
    assert account["rows"][2]["teacher"] == "nan" and account["stage"] == "train"


def test_only_the_last_few_bad_batches_are_kept(run: Callable[..., Run]) -> None:
    struck = run("struck", set(range(2, 20, 2)))
    struck(steps=20, save_every=20)
    names = sorted(path.name for path in struck.folder.glob("bad-batch-*.safetensors"))
    assert names == [f"bad-batch-train-{step:06d}.safetensors" for step in (10, 12, 14, 16, 18)]
    assert len(list(struck.folder.glob("bad-batch-*"))) == 2 * len(names)


@pytest.mark.parametrize("kind", ["teacher", "weight"])
def test_after_too_many_it_goes_back_and_on_with_half_the_rate(
    scene: SimpleNamespace, run: Callable[..., Run], kind: str
) -> None:
    """As if the run had been stopped at the checkpoint, and its recipe had had half the rate since.

    To see it fail: go on without restoring; or without lowering; or save weights unseen.
    """
    struck = run("struck", {5, 6, 7}, kind=kind)
    student = struck()

    reference = run("reference")
    with pytest.raises(Interrupted):
        reference(stopping=scene.stop_after(3))
    assert same(student, reference(learning_rate=0.5e-2))
    assert struck.lines == reference.lines
    steps = [step for step, _, _ in struck.noticed]
    assert steps == ([5, 6, 7, 7] if kind == "teacher" else [6, 6, 6])
    assert "goes back" in struck.noticed[-1][2]
    assert all(is_finite_at(checkpoint) for checkpoint in struck.checkpoints.values())


def is_finite_at(checkpoint: dict[str, Tensor]) -> bool:
    return all(bool(value.isfinite().all()) for value in checkpoint.values())


def test_before_the_first_checkpoint_it_goes_back_to_the_beginning(
    run: Callable[..., Run],
) -> None:
    struck, reference = run("struck", {1, 2, 3}), run("reference")
    assert same(struck(save_every=50), reference(save_every=50, learning_rate=0.5e-2))


def test_if_that_does_not_help_it_ends_and_says_where_and_what_to_do(
    run: Callable[..., Run],
) -> None:
    struck = run("struck", {5, 6, 7}, kind="term", even_at_lower_rates=True)
    with pytest.raises(Diverged, match=r"'train' diverged at step 7: task is nan") as failure:
        struck()
    assert failure.value.exit_code == 1
    for words in ("rows", "train.learning_rate (now 0.01)", "--fresh", "bad-batch-train-000007"):
        assert words in str(failure.value)
    assert sorted(struck.checkpoints) == ["step-000000", "step-000003"]
    assert all(is_finite_at(checkpoint) for checkpoint in struck.checkpoints.values())
    assert struck.noticed[-1][0] == 7 and "--fresh" in struck.noticed[-1][2]
    again = run("struck", {5, 6, 7}, kind="term", even_at_lower_rates=True)
    with pytest.raises(Diverged, match="diverged at step 7"):
        again(seed=7)
    assert again.noticed == struck.noticed[-4:]  # the lower rate is not forgotten


@pytest.mark.parametrize("patience", [1, 2, 4])
def test_how_many_are_too_many_is_said_by_the_recipe(
    run: Callable[..., Run], patience: int
) -> None:
    struck = run("struck", {5, 6, 7})
    struck(max_bad_steps=patience)
    rates = [line["learning_rate"] for line in struck.lines]
    undisturbed = run("undisturbed")
    undisturbed()
    full = [line["learning_rate"] for line in undisturbed.lines]
    halved = 8 if patience > 3 else 3
    assert rates == full[:halved] + [rate / 2 for rate in full[halved:]]


MOMENTS = {"killed": (7, 8, 12), "stopped": (4, 6, 7, 11)}
"""Counted in steps that are taken; three are taken twice."""


class Killed(Exception):
    """What the process was doing does not end."""


@pytest.mark.parametrize("how", ["killed", "stopped"])
@pytest.mark.parametrize("kind", ["teacher", "weight"])
def test_stopped_or_killed_meanwhile_it_ends_in_the_same_weights(
    scene: SimpleNamespace, run: Callable[..., Run], kind: str, how: str
) -> None:
    """Before, in the middle of the bad steps, right after going back, and later.

    To see it fail: keep no `extra` in checkpoints; or save one while steps are skipped; or let the
    last regular one be pruned.
    """
    whole = run("whole", {5, 6, 7, 10}, kind=kind)
    student = whole(steps=12)
    for moment in MOMENTS[how]:
        struck = run(f"{how}-{moment}", {5, 6, 7, 10}, kind=kind)
        taken: list[int] = []

        class Deadly:
            def take(self, step: int, taken: list[int] = taken, last: int = moment) -> list[Batch]:
                taken.append(step)
                if how == "killed" and len(taken) == last:
                    raise Killed
                return scene.Fresh().take(step)  # type: ignore[no-any-return]

        try:
            stop = scene.stop_after(moment if how == "stopped" else 99)
            struck(steps=12, source=Deadly(), stopping=stop, keep_checkpoints=1)
        except (Killed, Interrupted):
            continued = struck(seed=7, steps=12, keep_checkpoints=1)
            assert same(continued, student), moment
            assert struck.lines == whole.lines, moment


def test_stopped_in_every_step_it_ends_in_the_same_weights(
    scene: SimpleNamespace, run: Callable[..., Run]
) -> None:
    """A checkpoint a step, then; of bad steps there is none, so that three have to be taken.

    To see it fail: let checkpoints be pruned without sparing the last regular one.
    """
    whole = run("whole", {5, 6, 7})
    student = whole()
    struck = run("struck", {5, 6, 7})
    for attempt in range(20):
        try:
            stop = scene.stop_after(3 if struck.fate.step >= 4 else 1)
            continued = struck(seed=attempt, keep_checkpoints=1, stopping=stop)
        except Interrupted:
            continue
        break
    assert same(continued, student) and struck.lines == whole.lines


def test_a_sound_step_is_waited_for_once(
    scene: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever asks an accelerator for a number waits for all that it has been told to do."""
    asked: list[str] = []

    def noting(name: str) -> Callable[..., Any]:
        real = getattr(Tensor, name)

        def ask(self: Tensor, *given: Any) -> Any:
            if Path(sys._getframe(1).f_code.co_filename).is_relative_to(SOURCE):
                asked.append(name)
            return real(self, *given)

        return ask

    teacher = LocalTeacher(scene.make_model(4, 1))
    stage = scene.make_stage(tmp_path, scene.make_model(), teacher, scene.Fresh())
    optimizer = scene.Recorder(stage.module)
    loop.take_step(stage, stage.module, optimizer, 0, Parallel())
    for name in ("item", "tolist", "__bool__", "__float__", "__int__", "cpu"):
        monkeypatch.setattr(Tensor, name, noting(name))
    loop.take_step(stage, stage.module, optimizer, 1, Parallel())
    assert asked == ["tolist"]
