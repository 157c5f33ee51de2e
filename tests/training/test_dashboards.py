"""Dashboards really hold what was sent to them; nothing leaves the machine."""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from nexus.errors import UsageError
from nexus.training.dashboards import PROJECT, TensorBoard, WeightsAndBiases
from nexus.training.dashboards import name_on_dashboards as name_of
from nexus.training.metrics import Metrics, trackers

SETTINGS = {"seed": 0, "train": {"steps": 3}}


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: socket.socket, address: Any) -> None:
        raise AssertionError(f"connected to {address}")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    run = tmp_path / "half"
    run.mkdir()
    return run


def write(dashboard: Any, run: Path, first: int, values: list[float]) -> None:
    chosen = trackers(dashboard, run, SETTINGS, is_main=True)
    with Metrics(run, first, "train", chosen, writes=True) as metrics:
        for step, value in enumerate(values, first + 1):
            metrics.write(step, {"loss": value})


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_trackio_holds_the_run_and_continues_it(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from trackio.sqlite_storage import SQLiteStorage

    write("trackio", run, 0, [3.0, 2.0])
    write("trackio", run, 2, [1.0])
    logs = SQLiteStorage.get_logs(PROJECT, name_of(run))
    assert [(entry["step"], entry["train/loss"]) for entry in logs] == [(1, 3), (2, 2), (3, 1)]
    assert SQLiteStorage.get_run_config(PROJECT, name_of(run))["train"] == {"steps": 3}
    assert "token" not in capsys.readouterr().out


def test_tensorboard_holds_the_run(run: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    write("tensorboard", run, 0, [3.0, 2.0])
    write("tensorboard", run, 2, [1.0])
    events = EventAccumulator(str(run / "tensorboard")).Reload()
    found = [(event.step, event.value) for event in events.Scalars("train/loss")]
    assert sorted(found) == [(1, 3.0), (2, 2.0), (3, 1.0)]


def test_wandb_is_given_the_same_run_when_it_continues(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[Any] = []

    class Run:
        log = staticmethod(lambda values, step: said.append((step, values)))
        finish = staticmethod(lambda: said.append("finished"))

    module = ModuleType("wandb")
    module.init = lambda **given: said.append(given) or Run  # type: ignore[attr-defined]
    module.Settings = dict  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", module)
    write("wandb", run, 0, [3.0])
    write("wandb", run, 1, [2.0])
    first, second = said[0], said[3]
    assert said[1:3] == [(1, {"train/loss": 3.0}), "finished"]
    assert first["id"] == second["id"] == name_of(run) and first["resume"] == "allow"
    assert first["settings"] == {"disable_git": True, "save_code": False}


def test_runs_in_directories_of_one_name_stay_apart(tmp_path: Path) -> None:
    runs = [tmp_path / place / "half" for place in ("here", "there")]
    for run in runs:
        run.mkdir(parents=True)
    names = [name_of(run) for run in runs]
    assert names[0] != names[1] and all(name.startswith("half-") for name in names)
    assert [name_of(run) for run in runs] == names


@pytest.mark.parametrize(
    ("tracker", "module", "extra"),
    [
        (TensorBoard, "torch.utils.tensorboard", "tensorboard"),
        (WeightsAndBiases, "wandb", "wandb"),
    ],
)
def test_what_is_not_installed_is_said(
    run: Path, monkeypatch: pytest.MonkeyPatch, tracker: Any, module: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UsageError, match=rf"'{extra}', which is not .*\[{extra}\] or .* trackio"):
        tracker().start(run, SETTINGS)
