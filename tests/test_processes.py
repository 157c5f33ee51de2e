"""Runs of several processes, of which one is killed, frozen or wrong. Real ones."""

from __future__ import annotations

import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

HERE = Path(__file__).parent
COMMON = {**os.environ, "OMP_NUM_THREADS": "1", "NEXUS_MEMORY": "as it is"}
LONG = ("--set", "train.steps=100000", "train.save_every=5")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    workspace = runpy.run_path(str(HERE / "workspace.py"))
    recipe: Path = workspace["write_workspace"](tmp_path_factory.mktemp("workspace"))
    return recipe


class TwoRanks:
    """Two processes that find each other as torchrun has it, without torchrun."""

    def __init__(self, folder: Path) -> None:
        self.said = folder / "said.txt"
        self.server = subprocess.Popen(
            [sys.executable, str(HERE / "forked_ranks.py")],
            env=COMMON,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def begin(self, *arguments: object) -> list[int]:
        """Returns the numbers of the processes."""
        self.said.unlink(missing_ok=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        order = {"arguments": [*map(str, arguments)], "said": str(self.said), "port": port}
        assert self.server.stdin is not None
        print(json.dumps(order), file=self.server.stdin, flush=True)
        pids: list[int] = self._answer()
        return pids

    def end(self) -> tuple[list[int], str]:
        """Their exit codes, and what they said."""
        return self._answer(), self.said.read_text()

    def _answer(self) -> Any:
        assert self.server.stdout is not None
        return json.loads(self.server.stdout.readline())


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoRanks]:
    ranks = TwoRanks(tmp_path_factory.mktemp("ranks"))
    yield ranks
    ranks.server.communicate(timeout=60)


def supervised(recipe: Path, processes: int, *arguments: str) -> subprocess.Popen[str]:
    """The real command, which starts everything else by itself."""
    command = ["-m", "nexus", "distill", str(recipe), *arguments, "--processes", str(processes)]
    return subprocess.Popen(
        [sys.executable, *command],
        env=COMMON,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: subprocess.Popen[str], seconds: float) -> tuple[int, str]:
    try:
        said = process.communicate(timeout=seconds)[1]
    finally:
        process.kill()
    return process.returncode, said


def until(condition: Callable[[], object], seconds: float = 240) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.05)


def steps_of(run: Path) -> int:
    file = run / "metrics.jsonl"
    return file.read_text().count("\n") if file.exists() else 0


def ranks_below(pid: int) -> list[int]:
    """All processes below one, those without children of their own."""
    direct = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    below = [leaf for child in map(int, direct) for leaf in ranks_below(child)]
    return below or [pid]


def is_gone(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):  # the latter: it ended while it was read
        return True
    return status.rpartition(")")[2].split()[0] == "Z"


pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are found in /proc")


def test_a_frozen_process_ends_the_other_within_the_timeout(
    recipe: Path, two_ranks: TwoRanks
) -> None:
    """To see it fail: in parallel.processes, do not pass `timeout`, which is then ten minutes."""
    options = (*LONG, "output=frozen", "--timeout-seconds", "4")
    first, second = two_ranks.begin("distill", recipe, *options)
    try:
        until(lambda: steps_of(recipe.parent / "frozen") > 3)
        os.kill(second, signal.SIGSTOP)
        until(lambda: is_gone(first), seconds=4 + 10)
    finally:
        os.kill(second, signal.SIGKILL)
    codes, said = two_ranks.end()
    assert codes == [75, -signal.SIGKILL], said
    assert "has not answered for 4 seconds" in said and said.count("same command again") == 1
    assert "Traceback" not in said


def test_what_all_processes_find_is_said_once(recipe: Path, two_ranks: TwoRanks) -> None:
    """To see it fail: in cli._say_for_all, do not ask `says`."""
    wrong = ("--set", "data.heldout=[{kind: jsonl, path: missing.jsonl}]", "output=wrong")
    two_ranks.begin("distill", recipe, *wrong)
    codes, said = two_ranks.end()
    assert set(codes) <= {2, 75} and 2 in codes
    assert said.count("missing.jsonl") == 1 and "Traceback" not in said
    assert said.count("nexus:") == 1


def test_a_killed_process_is_replaced_and_nothing_is_lost(
    recipe: Path, two_ranks: TwoRanks
) -> None:
    """The weights are bit for bit those of a run that nobody disturbed.

    To see it fail: in StageTensors.read, leave out the moments, or in Supervisor begin anew.
    """
    options = ("--set", "train.steps=30", "train.save_every=4", "train.parallel=fsdp2")
    two_ranks.begin("distill", recipe, *options, "output=calm")
    assert two_ranks.end()[0] == [0, 0]
    run = recipe.parent / "killed"
    job = supervised(recipe, 2, *options, "output=killed")
    until(lambda: steps_of(run) > 6)
    first, second = ranks_below(job.pid)
    os.kill(first, signal.SIGKILL)
    until(lambda: is_gone(second), seconds=10)
    code, said = ended(job, 240)
    assert code == 0, said
    assert "SIGKILL" in said and said.count("started again from its newest checkpoint") == 1
    assert "Traceback" not in said and "Error" not in said
    one, other = (
        (recipe.parent / name / "student/model.safetensors").read_bytes()
        for name in ("calm", "killed")
    )
    assert one == other


@pytest.mark.parametrize("parallel", ["ddp", "fsdp2"])
def test_students_that_are_cut_between_stages_are_those_of_one_process(
    recipe: Path, two_ranks: TwoRanks, parallel: str
) -> None:
    """To see it fail: in cascade.begin, let each process keep the student that it had."""
    values = yaml.safe_load(recipe.read_text())
    objectives, train = values.pop("objectives"), values.pop("train")
    train |= {"steps": 2, "warmup_steps": 0, "tokens_per_step": 512, "parallel": parallel}
    thin = {"kind": "pruned", "shape": {"neurons": 32}, "calibration_tokens": 512}
    values["stages"] = [
        {"name": "whole", "objectives": objectives, "train": train},
        {"name": "thin", "objectives": objectives, "train": train, "student": thin,
         "teacher": "previous"},
    ]  # fmt: skip
    values |= {"output": f"cascade-{parallel}", "check": {"stop": False}}
    file = recipe.with_name(f"cascade-{parallel}.yaml")
    file.write_text(yaml.safe_dump(values))
    two_ranks.begin("distill", file)
    codes, said = two_ranks.end()
    assert codes == [0, 0], said
    alone = subprocess.run(
        [sys.executable, "-m", "nexus", "distill", str(file), "--set", "output=alone",
         *(f"stages.{n}.train.parallel=ddp" for n in (0, 1)), "--fresh"],
        env=COMMON, capture_output=True, text=True,
    )  # fmt: skip
    assert alone.returncode == 0, alone.stderr
    for name in ("stages/whole/student", "stages/thin/cut", "student"):
        two, one = (
            load_file(recipe.parent / run / name / "model.safetensors")
            for run in (values["output"], "alone")
        )
        assert two.keys() == one.keys()
        for key, value in one.items():
            assert torch.allclose(two[key], value, atol=2e-4), (name, key)


def test_a_student_learns_within_few_bits_on_all_processes(
    recipe: Path, two_ranks: TwoRanks
) -> None:
    """To see it fail: in quantization_aware, train with the batches of one process."""
    values = yaml.safe_load(recipe.read_text())
    train = values["train"] | {"steps": 2, "warmup_steps": 0, "tokens_per_step": 512}
    few = {"scheme": "int4", "group_size": 32,
           "distill": {"parameters": "weights", "train": train}}  # fmt: skip
    values |= {"train": train, "quantize": few, "check": {"stop": False}, "output": "few"}
    values["evaluate"] |= {"rollouts": 0}
    file = recipe.with_name("few.yaml")
    file.write_text(yaml.safe_dump(values))
    two_ranks.begin("distill", file)
    codes, said = two_ranks.end()
    assert codes == [0, 0], said
    alone = subprocess.run(
        [sys.executable, "-m", "nexus", "distill", str(file), "--set", "output=few-alone"],
        env=COMMON, capture_output=True, text=True,
    )  # fmt: skip
    assert alone.returncode == 0, alone.stderr
    two, one = (
        load_file(recipe.parent / run / "checkpoints/quantize/step-000002/student.safetensors")
        for run in ("few", "few-alone")
    )
    assert two.keys() == one.keys() and any(name.endswith("growth") for name in one)
    for key, value in one.items():
        assert torch.allclose(two[key], value, atol=2e-3), key
    assert (recipe.parent / "few" / "student-int4-distilled" / "model.safetensors").is_file()


def test_a_signal_to_the_supervisor_stops_all_resumably(recipe: Path) -> None:
    """To see it fail: in Supervisor._pass_on, pass nothing on."""
    run = recipe.parent / "stopped"
    job = supervised(recipe, 1, *LONG, "output=stopped")
    until(lambda: steps_of(run) > 3)
    below = ranks_below(job.pid)
    job.send_signal(signal.SIGINT)
    code, said = ended(job, 120)
    assert code == 75 and said.count("same command again") == 1, said
    assert "started again" not in said, said
    assert all(is_gone(pid) for pid in below)
    assert list(run.glob("checkpoints/train/step-*"))
