"""What is kept of a bad step says what was wrong with which rows, on every process."""

from __future__ import annotations

import json
import math
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from nexus.training.evidence import Evidence, bad_terms, strict

SCRIPT = Path(__file__).parent / "bad_rank.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes left behind."""
    folder = tmp_path_factory.mktemp("bad")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {
        **os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    ranks = [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), str(folder)],
            env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    said = [process.communicate(timeout=300)[1] for process in ranks]
    assert [process.returncode for process in ranks] == [0, 0], "\n".join(said)
    return folder


@pytest.mark.parametrize("way", ["ddp", "fsdp2"])
def test_bad_rows_of_one_process_stop_all_of_them_alike(folder: Path, way: str) -> None:
    """Step 2 is skipped; after 5 to 7 all go back to 3, where it happens again.

    To see it fail: decide by `numbers` of before they were summed over the processes.
    """
    told = [json.loads((folder / way / f"told-{rank}.json").read_text()) for rank in (0, 1)]
    steps = [[step for step, _, _ in each["noticed"]] for each in told]
    assert steps[0] == steps[1] == [2, 5, 6, 7, 7, 5, 6, 7, 7]
    assert all("diverged at step 7: teacher is nan" in each["failure"] for each in told)
    assert "rank1.jsonl:13" in told[1]["failure"] and "another process" in told[0]["failure"]
    lines = [json.loads(line) for line in (folder / way / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "skipped" in line] == [2, 5, 6, 7]
    names = sorted(path.name for path in (folder / way).glob("bad-batch*.json"))
    assert names == [f"bad-batch-train-{step:06d}-rank1.json" for step in (2, 5, 6, 7)]
    account = json.loads((folder / way / names[0]).read_text())
    assert [row["finite"] for row in account["rows"]] == [True, False]
    kept = load_file(folder / way / "bad-batch-train-000002-rank1.safetensors")
    assert (kept["input_ids"] == 60).any(1).tolist() == [False, True]


def values(**changed: Any) -> dict[str, Any]:
    sound = {
        "loss": 1.0, "terms": {"task": 2.0, "output": 3.0}, "kl": 0.1, "targets": 7,
        "gradient_norm": 1.0,
    }  # fmt: skip
    return {**sound, **changed}


def test_the_first_link_of_the_chain_that_breaks_is_named() -> None:
    """A teacher that is bad makes losses bad, and bad losses make gradients bad."""
    ruined = values(loss=math.nan, kl=math.nan, gradient_norm=math.nan)
    bad = {"task": 2.0, "output": math.inf}
    assert bad_terms(values()) == ()
    assert bad_terms({"teacher": -math.inf, **ruined, "terms": bad}) == ("teacher is -inf",)
    assert bad_terms({**ruined, "terms": bad}) == ("output is inf",)
    assert bad_terms(values(gradient_norm=math.inf)) == ("gradient_norm is inf",)
    assert bad_terms(values(kl=math.nan)) == ("kl is nan",)


@pytest.mark.parametrize("count", [0, 1, 3, 4, 40])
def test_a_message_names_a_few_places_and_counts_the_rest(count: int) -> None:
    places = tuple(f"text.jsonl:{number}" for number in range(count))
    said = str(Evidence(("task is nan",), places, "bad.safetensors"))
    assert said.count("jsonl") == min(3, count) and "see bad.safetensors" in said
    assert (f"and {count - 3} more" in said) == (count > 3)


@given(
    st.dictionaries(
        st.text(),
        st.recursive(
            st.floats() | st.integers() | st.booleans() | st.text() | st.none(),
            lambda inner: st.dictionaries(st.text(), inner),
        ),
    )
)
def test_anything_becomes_strict_json_and_numbers_stay_what_they_are(given: Any) -> None:
    back = json.loads(json.dumps(strict(given), allow_nan=False))
    assert same(back, given)


def same(back: Any, was: Any) -> bool:
    if isinstance(was, dict):
        return back.keys() == was.keys() and all(same(back[key], was[key]) for key in was)
    if isinstance(was, float) and not math.isfinite(was):
        return isinstance(back, str) and str(float(back)) == str(was)
    return type(back) is type(was) and bool(back == was)
