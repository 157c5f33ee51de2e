"""The ordeals that every tool goes through. Each returns what came of every trial, in full."""

from __future__ import annotations

import hashlib
import json
import math
import random
import shutil
import statistics
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mishaps import Mishap, cut_in_half, filled, flip_a_weight_bit, set_clock_back, small_disk
from safetensors.torch import load_file
from tools import SAVE_EVERY, Job, Tool
from trials import LONGEST, Ended, Trial, start

STOPPED_AFTER, NAN_STEP, CLOCK_STEPS = 12, 10, 6
DISK_BYTES = 16 * 2**20

RIGHT, SAID_WRONG, SILENT, REFUSED, RAW, HUNG = (
    "recovered", "wrong, said so", "silently wrong", "refused", "raw traceback", "hung",
)  # fmt: skip
UNMOVED = "no difference"

Outcome = dict[str, Any]


@dataclass(frozen=True)
class Ground:
    """What trials of a tool are compared with."""

    tool: Tool
    material: Path
    scratch: Path
    workers: int
    reference: str = ""
    """SHA-256 of the final weights of a run that nothing befell."""
    life: float = 0.0
    """Seconds from its process's start to its end."""
    usual: frozenset[str] = frozenset()
    """What is said when a run that was killed between two saves is continued."""

    @property
    def stopped(self) -> Path:
        """A run that was killed in the middle, between two saves."""
        return self.scratch / "stopped"

    def job(self, name: str, **changes: Any) -> Job:
        return Job(self.material, self.scratch / name, **changes)

    def start(self, job: Job, **options: Any) -> Trial:
        log = self.scratch / f"{job.run.parent.name}-{job.run.name}.log"
        return start(self.tool.play, job, log, **options)

    def carry_out(self, job: Job, **options: Any) -> Ended:
        return self.start(job, **options).wait()

    def copy_of_stopped(self, name: str) -> Job:
        shutil.copytree(self.stopped, self.scratch / name)
        return self.job(name)

    def checkpoints(self, run: Path) -> list[Path]:
        """Oldest first."""
        return sorted(run.glob(self.tool.checkpoints), key=step_of)

    def is_right(self, run: Path) -> bool:
        return fingerprint(run / self.tool.final) == self.reference

    def each(self, trial: Callable[[Any], Outcome], given: Iterable[Any]) -> list[Outcome]:
        with ThreadPoolExecutor(self.workers) as pool:
            return list(pool.map(trial, given))


def survey(tool: Tool, material: Path, scratch: Path, workers: int) -> Ground:
    """Run a tool undisturbed, and once killed and continued.

    Raises:
        RuntimeError: if it does not even run, or two runs differ: then nothing can be compared.
    """
    ground = Ground(tool, material, scratch, workers)
    jobs = [ground.job(f"undisturbed-{number}") for number in range(1 + workers)]
    ended = [ground.carry_out(jobs[0])]  # the first waits for the fork server, too
    with ThreadPoolExecutor(workers) as pool:
        ended += pool.map(ground.carry_out, jobs[1:])
    found = {fingerprint(job.run / tool.final) for job in jobs}
    if any(each.code for each in ended) or len(found) > 1:
        raise RuntimeError(f"{tool.title}: undisturbed runs fail or differ: {ended[0].said}")
    life = statistics.median(each.seconds for each in ended[1:])
    ground = replace(ground, reference=found.pop(), life=life)
    ground.carry_out(ground.job("stopped", mishap=Mishap("kill", STOPPED_AFTER + 1)))
    again = ground.copy_of_stopped("continued")
    last = ground.carry_out(again)
    if not ground.is_right(again.run):
        raise RuntimeError(f"{tool.title}: a continued run differs: {last.said}")
    return replace(ground, usual=frozenset(last.lines))


def killed(ground: Ground, count: int) -> list[Outcome]:
    """SIGKILL at a random moment of a process's life, then the same command once more."""

    def trial(number: int) -> Outcome:
        job, chosen = ground.job(f"killed-{number}"), random.Random(number)
        while True:
            moment = chosen.uniform(0, ground.life)
            first = ground.start(job)
            if first.kill_after(moment):
                break
            first.wait()  # it was done already: another moment
            shutil.rmtree(job.run)
        first.wait()
        left = [path.name for path in ground.checkpoints(job.run)]
        ended = ground.carry_out(job)
        return _outcome(ground, job, ended) | {"killed_after_seconds": moment, "left": left}

    return ground.each(trial, range(count))


def damaged(ground: Ground, flips: int) -> list[Outcome]:
    """Something of the newest checkpoint is not what was written, and the run is continued.

    Of few flips, few other damages are tried either.
    """
    parts = dict(list(ground.tool.parts.items())[: flips + 1])
    kinds = [("flipped", "weights", seed) for seed in range(flips)]
    kinds += [("missing", part, 0) for part in parts if part != "weights"]
    kinds += [("cut", part, 0) for part in parts]

    def trial(kind: tuple[str, str, int]) -> Outcome:
        what, part, seed = kind
        job = ground.copy_of_stopped(f"{what}-{part.replace(' ', '-')}-{seed}")
        (file,) = ground.checkpoints(job.run)[-1].glob(parts[part])
        size, where = file.stat().st_size, ""
        match what:
            case "flipped":
                where = flip_a_weight_bit(file, seed)
            case "missing":
                file.unlink()
            case "cut":
                cut_in_half(file)
        ended = ground.carry_out(job)
        facts = {"damage": what, "part": part, "bytes": size, "where": where}
        return facts | _outcome(ground, job, ended)

    return ground.each(trial, kinds)


def not_a_number(ground: Ground) -> list[Outcome]:
    """One step's hidden states, and so its loss, are NaN, once."""

    def trial(nan_filter: bool) -> Outcome:
        name = f"nan-{'filtered' if nan_filter else 'unfiltered'}"
        job = ground.job(name, mishap=Mishap("nan", NAN_STEP), nan_filter=nan_filter)
        ended = ground.carry_out(job)
        weights, final = {}, job.run / ground.tool.final
        if final.exists():
            weights = load_file(final)
        return _outcome(ground, job, ended) | {
            "logging_nan_inf_filter": nan_filter if ground.tool.filters_nan else None,
            "tensors": len(weights),
            "tensors_with_nan": sum(bool(value.isnan().any()) for value in weights.values()),
            "logged": _logged(job.run, NAN_STEP),
        }

    return ground.each(trial, [True, False] if ground.tool.filters_nan else [True])


def permuted(ground: Ground) -> list[Outcome]:
    """The student's tokenizer gives every word the id of another; its size is the teacher's."""
    if not ground.tool.teaches:
        return []
    job = ground.job("permuted", student="permuted")
    ended = ground.carry_out(job)
    return [_outcome(ground, job, ended) | {"verdict": REFUSED if ended.code else "trains"}]


def clock_set_back(ground: Ground) -> list[Outcome]:
    """The checkpoints that are there seem two hours older than they will be; more are saved."""
    job = ground.copy_of_stopped("clock")
    set_clock_back(ground.checkpoints(job.run), hours=2)
    ended = ground.carry_out(replace(job, mishap=Mishap("kill", CLOCK_STEPS + 1)))
    kept = [step_of(path) for path in ground.checkpoints(job.run)]
    newest = STOPPED_AFTER + CLOCK_STEPS
    assert newest % SAVE_EVERY == 0
    verdict = "newest kept" if newest in kept else "newest deleted"
    return [_outcome(ground, job, ended) | {"kept": kept, "saved": newest, "verdict": verdict}]


def two_at_once(ground: Ground, count: int) -> list[Outcome]:
    """A second process of the same command starts while the first is at work."""

    def trial(number: int) -> Outcome:
        job = ground.job(f"two-{number}")
        first = ground.start(job)
        first.process.join(ground.life * (number + 1) / (count + 2))
        second = start(ground.tool.play, job, ground.scratch / f"two-{number}-second.log").wait()
        ended = first.wait()
        both = (ended, second)
        if any(each.has_traceback for each in both):
            verdict = "one died with a traceback"
        elif not any(each.code for each in both):
            verdict = "both ran"
        else:
            verdict = "second refused" if second.code and not ended.code else "first harmed"
        return _outcome(ground, job, ended) | {
            "verdict": verdict,
            "second_code": second.code,
            "second_seconds": second.seconds,
            "second_last_line": second.last_line,
        }

    return [trial(number) for number in range(count)]


def disk_full(ground: Ground, count: int) -> list[Outcome]:
    """Once the first checkpoint is there, others fill the disk; then they make room again."""
    newest = ground.checkpoints(ground.stopped)[-1]
    sizes = [path.stat().st_size for path in newest.iterdir()]

    def trial(number: int) -> Outcome:
        left = int(sum(sizes) * (0.1 + 1.8 * number / count))
        disk = ground.scratch / f"disk-{number}"
        try:
            with small_disk(disk, DISK_BYTES):
                job = Job(ground.material, disk / "run")
                first = ground.start(job)
                while first.process.exitcode is None and not ground.checkpoints(job.run):
                    first.process.join(0.002)
                with filled(disk, left):
                    before = first.wait()
                facts = _outcome(ground, job, ground.carry_out(job)) | {"means": "tmpfs"}
        except PermissionError:
            job, left = ground.job(f"quota-{number}"), int(max(sizes) * (number + 1) / (count + 1))
            before = ground.carry_out(job, largest_file=left)
            facts = _outcome(ground, job, ground.carry_out(job)) | {"means": "RLIMIT_FSIZE"}
        return facts | {
            "bytes_left": left,
            "first_code": before.code,
            "first_traceback": before.has_traceback,
            "first_last_line": before.last_line,
        }

    return [trial(number) for number in range(count)]


def fingerprint(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else ""


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def _outcome(ground: Ground, job: Job, ended: Ended) -> Outcome:
    """What there is to say of the last process of a trial."""
    identical, news = ground.is_right(job.run), sorted(ended.lines - ground.usual)
    if ended.seconds >= LONGEST:
        verdict = HUNG
    elif ended.code:
        verdict = RAW if ended.has_traceback else REFUSED
    elif identical:
        verdict = RIGHT if news else UNMOVED
    else:
        verdict = SAID_WRONG if news else SILENT
    return {
        "verdict": verdict,
        "code": ended.code,
        "identical": identical,
        "seconds": round(ended.seconds, 3),
        "news": news[:5],
        "last_line": ended.last_line if ended.code else "",
    }


def _logged(run: Path, step: int) -> str:
    """The loss that a tool's own log has for a step."""
    state, metrics = run / "trainer_state.json", run / "metrics.jsonl"
    lines: list[dict[str, Any]] = []
    if state.exists():
        lines = json.loads(state.read_text())["log_history"]
    elif metrics.exists():
        lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    losses = [line["loss"] for line in lines if line.get("step") == step and "loss" in line]
    if not losses:
        return "nothing"
    loss = math.nan if losses[0] is None else float(losses[0])
    return f"{loss:.4g}" if math.isfinite(loss) else "NaN"
