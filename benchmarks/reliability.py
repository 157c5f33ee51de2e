"""What becomes of a run that is killed, damaged or fed nonsense, by tool?

    python benchmarks/reliability.py

HF Trainer, TRL's GKD trainer and Nexus carry out the same short run (tools.py) and go through the
same ordeals (ordeals.py). No tool is changed: faults come from outside, from signals, damaged
files, a full disk, and a hook that PyTorch offers. README.md says how to read the table.
"""

from __future__ import annotations

import math
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import tyro
from machine import described, require
from machine import facts as machine_facts
from ordeals import (
    RIGHT,
    Outcome,
    clock_set_back,
    damaged,
    disk_full,
    killed,
    not_a_number,
    permuted,
    survey,
    two_at_once,
)
from results import RESULTS, goal, goals_table, publish, table
from tools import TOOLS, write_material
from trials import begin

from nexus.errors import UsageError

ROUNDS, FLIPS, REPEATS = 60, 20, 6
MEMORY = Path("/dev/shm")


def main(
    tools: tuple[str, ...] = tuple(TOOLS),
    rounds: int = ROUNDS,
    flips: int = FLIPS,
    workers: int = 2,
    tiny: bool = False,
    output: Path | None = None,
) -> bool:
    """Put every tool to the test, print a Markdown table, and write it to benchmarks/results.

    Args:
        tools: Which of them.
        rounds: How often each run is killed.
        flips: How many bits of the newest checkpoint's weights are flipped, one at a time.
        workers: How many trials go on at once.
        tiny: A trial or two of each kind, to see that everything runs. Written only to `output`.
        output: Where to write instead, without suffix.

    Returns:
        Whether what is promised of Nexus held.
    """
    if unknown := set(tools) - TOOLS.keys():
        raise UsageError(f"tool '{min(unknown)}' does not exist. Known: {', '.join(TOOLS)}")
    require(["trl"] if "trl" in tools else [])
    counts = (1, 1, 1) if tiny else (rounds, flips, REPEATS)
    machine = machine_facts()
    begin(preload=("__main__", "warm"))
    chosen = [name for name in TOOLS if name in tools]
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder:
        write_material(Path(folder) / "material")
        rows = [put_to_the_test(name, Path(folder), counts, workers) for name in chosen]
    facts = {
        "machine": machine,
        "counts": dict(zip(("kills", "flips", "repeats"), counts, strict=True)),
        "tools": rows,
        "goals": goals(rows),
    }
    publish(tables(facts), facts, output or (None if tiny else RESULTS / "reliability"))
    return all(each["met"] for each in facts["goals"])


def put_to_the_test(
    name: str, folder: Path, counts: tuple[int, int, int], workers: int
) -> dict[str, Any]:
    """All ordeals of one tool."""
    tool, scratch = TOOLS[name], folder / name
    scratch.mkdir()
    kills, flips, repeats = counts
    ground = survey(tool, folder / "material", scratch, workers)
    outcomes: dict[str, list[Outcome]] = {}
    ordeals: tuple[tuple[Callable[..., list[Outcome]], int | None], ...] = (
        (killed, kills), (damaged, flips), (not_a_number, None), (permuted, None),
        (clock_set_back, None), (two_at_once, repeats), (disk_full, repeats),
    )  # fmt: skip
    for ordeal, count in ordeals:
        outcomes[ordeal.__name__] = ordeal(ground, *([] if count is None else [count]))
        found = Counter(each["verdict"] for each in outcomes[ordeal.__name__])
        print(f"  {name}, {ordeal.__name__}: {dict(found)}", file=sys.stderr)
    shutil.rmtree(scratch)
    return {
        "name": name,
        "title": tool.title,
        "settings": tool.settings,
        "seconds_undisturbed": ground.life,
        "outcomes": outcomes,
    }


def goals(tools: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What is promised of Nexus, and whether it held."""
    own = next((tool["outcomes"] for tool in tools if tool["name"] == "nexus"), None)
    if own is None:
        return []
    kills, nan = own["killed"], own["not_a_number"][0]
    count = len(kills)
    return [
        goal("resumed after kill -9, share", _sum(kills, "resumed") / count, least=1),
        goal("bit-identical after kill -9, share", _sum(kills, "identical") / count, least=1),
        goal("damages that were not recovered from", _unlike(own["damaged"], RIGHT), most=0),
        goal("weight tensors with NaN", nan["tensors_with_nan"], most=0),
        goal("foreign tokenizers trained on", _unlike(own["permuted"], "refused"), most=0),
        goal("newest checkpoints deleted", _unlike(own["clock_set_back"], "newest kept"), most=0),
        goal("second runs let in", _unlike(own["two_at_once"], "second refused"), most=0),
        goal("runs lost to a full disk", _lost(own["disk_full"]), most=0),
    ]


def tables(facts: dict[str, Any]) -> str:
    """The table in Markdown."""
    tools = facts["tools"]
    lines = [
        [title, *(cell(tool["outcomes"][ordeal]) for tool in tools)]
        for title, ordeal, cell in LINES
    ]
    settings = "; ".join(f"{tool['title']}: {tool['settings']}" for tool in tools)
    parts = [
        described(facts["machine"]),
        table(["", *(tool["title"] for tool in tools)], lines),
        f"Every run has one thread. Shares with 95 % intervals (Wilson). Settings: {settings}.",
    ]
    return "\n\n".join([*parts, *([goals_table(facts["goals"])] if facts["goals"] else [])])


def _resumed(kills: Sequence[Outcome]) -> str:
    return _share(_sum(kills, "resumed"), len(kills))


def _identical(kills: Sequence[Outcome]) -> str:
    return _share(_sum(kills, "identical"), len(kills))


def _verdicts(*damages: str, part: str = "") -> Callable[[Sequence[Outcome]], str]:
    def cell(outcomes: Sequence[Outcome]) -> str:
        return _counted(
            each for each in outcomes
            if each["damage"] in damages and part in ("", each["part"])
        )  # fmt: skip

    return cell


def _counted(outcomes: Any) -> str:
    found = Counter(each["verdict"] for each in outcomes)
    total = sum(found.values())
    said = (f"{name}: {count} of {total}" for name, count in found.most_common())
    return ", ".join(said) or "–"


def _nan(outcomes: Sequence[Outcome]) -> str:
    first = outcomes[0]
    ends = f"exit {first['code']}, {first['tensors_with_nan']} of {first['tensors']} tensors NaN"
    logged = f"{ends}; logged: {first['logged']}"
    others = [f"{each['logged']} with the filter off" for each in outcomes[1:]]
    return " ".join([logged, *(f"({other})" for other in others)])


def _refusal(outcomes: Sequence[Outcome]) -> str:
    if not outcomes:
        return "has no teacher"
    return f"{outcomes[0]['verdict']}, exit {outcomes[0]['code']}, {outcomes[0]['seconds']:.1f} s"


def _kept(outcomes: Sequence[Outcome]) -> str:
    first = outcomes[0]
    return f"{first['verdict']}: saved {first['saved']}, kept {first['kept']}"


def _two(outcomes: Sequence[Outcome]) -> str:
    slowest = max(each["second_seconds"] for each in outcomes)
    refused = all(each["verdict"] == "second refused" for each in outcomes)
    return _counted(outcomes) + (f", in {slowest:.1f} s at most" if refused else "")


def _full(outcomes: Sequence[Outcome]) -> str:
    raw = sum(each["first_traceback"] for each in outcomes)
    total, lost = len(outcomes), _lost(outcomes)
    return (
        f"raw traceback: {raw} of {total}; continued to the same weights: {total - lost} of {total}"
    )


def _lost(outcomes: Sequence[Outcome]) -> int:
    return sum(not each["identical"] for each in outcomes)


def _unlike(outcomes: Sequence[Outcome], verdict: str) -> int:
    return sum(each["verdict"] != verdict for each in outcomes)


def _sum(kills: Sequence[Outcome], what: str) -> int:
    """How many ended well; with the same weights, too, where that is asked."""
    return sum(each["code"] == 0 and (what == "resumed" or each["identical"]) for each in kills)


def _share(found: int, total: int) -> str:
    """Of how many, in per cent, with the interval of Wilson (1927)."""
    z, p = 1.96, found / total
    middle = (p + z * z / (2 * total)) / (1 + z * z / total)
    reach = z * math.sqrt(p * (1 - p) / total + (z / (2 * total)) ** 2) / (1 + z * z / total)
    least, most = (100 * max(0.0, middle - reach), 100 * min(1.0, middle + reach))
    return f"{found} of {total} ({100 * p:.0f} % [{least:.0f}–{most:.0f}])"


LINES: tuple[tuple[str, str, Callable[[Sequence[Outcome]], str]], ...] = (
    ("`kill -9` at a random moment: the same command goes on", "killed", _resumed),
    ("… and ends in bit-identical weights", "killed", _identical),
    ("one bit of the newest checkpoint's weights flipped", "damaged", _verdicts("flipped")),
    ("optimiser's file missing", "damaged", _verdicts("missing", part="optimiser")),
    ("schedule's file missing", "damaged", _verdicts("missing", part="schedule")),
    ("file with the step missing", "damaged", _verdicts("missing", part="progress")),
    ("file with random states missing", "damaged", _verdicts("missing", part="random states")),
    ("a file cut in half, each in turn", "damaged", _verdicts("cut")),
    ("one step's loss is NaN", "not_a_number", _nan),
    ("student's tokenizer of the same size, ids permuted", "permuted", _refusal),
    ("clock set back by two hours", "clock_set_back", _kept),
    ("a second run in the same directory", "two_at_once", _two),
    ("disk full in a save, then room is made", "disk_full", _full),
)

if __name__ == "__main__":
    try:
        sys.exit(not tyro.cli(main))
    except UsageError as error:
        sys.exit(f"reliability.py: {error}")
