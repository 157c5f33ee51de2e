"""A run whose process the kernel ended for want of memory says so when it goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from nexus.training import killed
from nexus.training.killed import killed_for_memory, marked

PROGRAM = """
import os, sys
from pathlib import Path
from nexus.training.killed import marked

run = Path(sys.argv[1])
with marked(run):
    line = '{"stage": "train", "step": 12, "peak_memory_gib": %s}' + chr(10)
    (run / "metrics.jsonl").write_text(line % sys.argv[2] + '{"stage": "tr')
    os.kill(os.getpid(), 9)
"""


def die(run: Path, held: float) -> None:
    """A process that is killed in training, when it held so many GiB."""
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(run), str(held)])
    assert done.returncode == -signal.SIGKILL


def limit() -> float:
    return float(killed._facts()["limit_gib"])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells")
def test_the_machine_is_known() -> None:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    assert 0 < limit() <= total + 0.01
    assert killed._facts()["boot"] and killed._facts()["kills"] >= 0


def test_an_orderly_end_leaves_nothing_to_find(tmp_path: Path) -> None:
    with pytest.raises(KeyError), marked(tmp_path):
        assert (tmp_path / "training.json").exists()
        raise KeyError
    assert list(tmp_path.iterdir()) == [] and killed_for_memory(tmp_path) is None


def test_only_the_first_process_leaves_its_mark(tmp_path: Path) -> None:
    with marked(tmp_path, writes=False):
        assert list(tmp_path.iterdir()) == []


def test_killed_with_all_memory_in_its_hands(tmp_path: Path) -> None:
    die(tmp_path, held=0.95 * limit())
    found = killed_for_memory(tmp_path)
    assert found is not None
    step, why = found
    assert step == 12 and f"of the {limit():.1f} GiB" in why


def test_killed_with_memory_to_spare_was_killed_by_somebody_else(tmp_path: Path) -> None:
    die(tmp_path, held=0.5 * limit())
    assert killed_for_memory(tmp_path) is None


def test_the_kernel_counts_whom_it_ends(tmp_path: Path) -> None:
    die(tmp_path, held=0.1)
    file = tmp_path / "training.json"
    facts = json.loads(file.read_text())
    file.write_text(json.dumps({**facts, "kills": facts["kills"] - 1}))
    found = killed_for_memory(tmp_path)
    assert found is not None and "for want of memory since then" in found[1]
    file.write_text(json.dumps({**facts, "kills": facts["kills"] - 1, "boot": "another"}))
    assert killed_for_memory(tmp_path) is None  # counted from zero since
