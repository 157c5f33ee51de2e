"""Kill, stop, starve and damage a run in a thousand ways; each must end as if nothing had been.

PYTHONPATH=tests python -m torture                   all points: minutes, on two cores
PYTHONPATH=tests python -m torture --points 40       about so many, of every kind some
PYTHONPATH=tests python -m torture --only random:17  one point again, with the seed it had
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

from torture import clock, damage, disk, kills, power, ranks, stops
from torture.prepare import prepare
from torture.server import die_with_parent
from torture.table import Table
from torture.trials import Bench, Kind, Result, Trial

ROUND = 40
KINDS: tuple[Kind, ...] = tuple(
    kind for module in (kills, power, ranks, stops, disk, damage, clock) for kind in module.KINDS
)


def main() -> int:
    options = _options()
    root = Path(tempfile.mkdtemp(prefix="torture-", dir=options.directory or _fast_place()))
    _say(f"seed {options.seed}, {options.workers} at a time, in {root}")
    began = time.monotonic()
    bench, table = Bench(root, options.seed, options.keep, options.points is None), Table(KINDS)
    prepare(bench, two_processes=not options.only or any("ranks" in one for one in options.only))
    chosen = list(_chosen(bench, options))
    table.skipped = bench.missing
    table.failures += bench.failures
    for result, seconds in _tried(bench, chosen, options.workers):
        table.add(result, seconds)
        if result.problem:
            _say(f"FAILED {result.problem}")
    minutes = (time.monotonic() - began) / 60
    text = f"{table.text()}\n\nseed {options.seed}, {minutes:.1f} minutes"
    print(text, flush=True)
    if options.output:
        options.output.write_text(text + "\n")
    if table.good and not options.keep:
        shutil.rmtree(root)
    return 0 if table.good else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="torture", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--points", type=int, help="about how many points; all, and all kinds, if not given")
    add("--seed", type=int, default=0)
    add("--only", action="append", metavar="KIND[:NUMBER]", help="; ".join(k.name for k in KINDS))
    # One more than there are processors, since trials of several processes wait for each other.
    add("--workers", type=int, default=min(8, 1 + (os.cpu_count() or 1)), help="trials at a time")
    add("--output", type=Path, help="a file for the table")
    add("--keep", action="store_true", help="keep the folders of good trials too")
    add("--directory", help="where to work; shared memory if there is any")
    return parser.parse_args()


def _chosen(bench: Bench, options: argparse.Namespace) -> Iterator[tuple[Kind, int]]:
    """The points of each kind: all, or evenly drawn ones, or those that were named."""
    named = dict(one.partition(":")[::2] for one in options.only or ())
    if unknown := named.keys() - {kind.name for kind in KINDS}:
        raise SystemExit(f"torture: no kind is called {sorted(unknown)[0]!r}")
    for kind in KINDS:
        if kind.name in bench.missing or (named and kind.name not in named):
            continue
        numbers = list(range(kind.count(bench)))
        if named.get(kind.name):
            numbers = [int(named[kind.name])]
        elif options.points is not None:
            wanted = max(min(kind.few, 1), round(kind.few * options.points / ROUND))
            wanted = options.points if named else wanted
            chance = random.Random(f"{bench.seed}/{kind.name}")
            numbers = sorted(chance.sample(numbers, min(len(numbers), wanted)))
        yield from ((kind, number) for number in numbers)


def _tried(
    bench: Bench, chosen: list[tuple[Kind, int]], workers: int
) -> Iterator[tuple[Result, float]]:
    """Every point's result, from processes that are copies of this one."""
    gc.collect()
    gc.freeze()  # what is here is shared with every copy as long as none writes to it
    kinds = {kind.name: kind for kind in KINDS}
    with ProcessPoolExecutor(
        workers, multiprocessing.get_context("fork"), _begin, (bench, kinds)
    ) as pool:
        waiting = [pool.submit(_attempt, kind.name, number) for kind, number in chosen]
        try:
            for count, done in enumerate(as_completed(waiting), 1):
                if count % 100 == 0:
                    _say(f"{count} of {len(waiting)}")
                yield done.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


_BENCH: Bench
_KINDS: dict[str, Kind]


def _begin(bench: Bench, kinds: dict[str, Kind]) -> None:
    global _BENCH, _KINDS
    die_with_parent()
    _BENCH, _KINDS = bench, kinds


def _attempt(name: str, number: int) -> tuple[Result, float]:
    began = time.monotonic()
    trial = Trial(_BENCH, name, number)
    try:
        result = _KINDS[name].attempt(trial)
    except Exception:
        result = trial.failed(f"the harness itself failed:\n{traceback.format_exc()}")
    if not result.problem and not _BENCH.keep:
        shutil.rmtree(trial.folder)
    return result, time.monotonic() - began


def _fast_place() -> str | None:
    shared = Path("/dev/shm")
    return str(shared) if os.access(shared, os.W_OK) else None


def _say(text: str) -> None:
    print(f"torture: {text}", file=sys.stderr, flush=True)
