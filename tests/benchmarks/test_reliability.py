"""The reliability benchmark: its faults are faults, and its verdicts are right."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mishaps
import ordeals
import pytest
import reliability
import torch
from ordeals import Ground
from safetensors.torch import load_file, save_file
from tools import TOOLS, permute
from trials import Ended


def test_one_command_measures_writes_and_finds_what_is_promised(tmp_path: Path) -> None:
    """Real processes, really killed. Returns 0 only if every promise held."""
    output = tmp_path / "reliability"
    command = [sys.executable, str(Path(reliability.__file__)), "--tiny", "--tools", "nexus"]
    done = subprocess.run(
        [*command, "--output", str(output)], capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr + done.stdout
    facts = json.loads(output.with_suffix(".json").read_text())
    (tool,) = facts["tools"]
    assert set(tool["outcomes"]) == {
        *("killed", "damaged", "not_a_number", "permuted", "clock_set_back", "two_at_once"),
        "disk_full",
    }
    for outcomes in tool["outcomes"].values():
        assert outcomes
        assert not any(outcome["verdict"] == ordeals.RAW for outcome in outcomes)
    assert {each["damage"] for each in tool["outcomes"]["damaged"]} == {"flipped", "missing", "cut"}
    assert facts["goals"] and all(goal["met"] for goal in facts["goals"])
    text = output.with_suffix(".md").read_text()
    assert text == done.stdout
    assert all(title in text for title, _, _ in reliability.LINES)


def test_an_unknown_tool_is_a_mistake_without_traceback() -> None:
    command = [sys.executable, str(Path(reliability.__file__)), "--tools", "axolotl"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert "tool 'axolotl' does not exist. Known: trainer, trl, nexus" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("seed", range(20))
def test_a_flipped_bit_is_one_bit_of_one_weight(tmp_path: Path, seed: int) -> None:
    file = tmp_path / "weights.safetensors"
    save_file({"a": torch.arange(6.0), "b": torch.ones(3, dtype=torch.bfloat16)}, file)
    before = file.read_bytes()
    weights = {name: value.clone() for name, value in load_file(file).items()}  # it maps the file
    mishaps.flip_a_weight_bit(file, seed)
    pairs = zip(before, file.read_bytes(), strict=True)
    assert sum((one ^ other).bit_count() for one, other in pairs) == 1
    bits = {name: value.view(torch.uint8) for name, value in load_file(file).items()}
    changed = [
        name for name in bits if not torch.equal(bits[name], weights[name].view(torch.uint8))
    ]
    assert len(changed) == 1


def test_a_permuted_tokenizer_has_the_same_words_and_other_ids(tmp_path: Path) -> None:
    file = tmp_path / "tokenizer.json"
    vocabulary = {"<unk>": 0, "a": 1, "b": 2, "c": 3}
    content = {"added_tokens": [{"content": "<unk>"}], "model": {"vocab": vocabulary}}
    file.write_text(json.dumps(content))
    permute(file)
    assert json.loads(file.read_text())["model"]["vocab"] == {"<unk>": 0, "a": 2, "b": 3, "c": 1}


@pytest.mark.parametrize(
    ("code", "said", "right", "verdict"),
    [
        (0, "usual 12", True, ordeals.UNMOVED),
        (0, "usual 3\na bad one was put aside", True, ordeals.RIGHT),
        (0, "usual 3\nsomething is odd", False, ordeals.SAID_WRONG),
        (0, "usual 3", False, ordeals.SILENT),
        (2, "nexus: put it right", False, ordeals.REFUSED),
        (1, "Traceback (most recent call last):\n  oh", False, ordeals.RAW),
    ],
)
def test_verdicts(
    monkeypatch: pytest.MonkeyPatch, code: int, said: str, right: bool, verdict: str
) -> None:
    ground = Ground(
        TOOLS["nexus"], Path(), Path(), 1, usual=frozenset(Ended(0, 1.0, "usual 7").lines)
    )
    monkeypatch.setattr(Ground, "is_right", lambda *_: right)
    job: Any = SimpleNamespace(run=Path())
    assert ordeals._outcome(ground, job, Ended(code, 1.0, said))["verdict"] == verdict


def test_shares_have_wilsons_interval() -> None:
    assert reliability._share(60, 60) == "60 of 60 (100 % [94–100])"
    assert reliability._share(50, 60) == "50 of 60 (83 % [72–91])"
    assert reliability._share(0, 10) == "0 of 10 (0 % [0–28])"


def test_what_is_promised_can_be_broken() -> None:
    bad = {"code": 1, "identical": False, "verdict": ordeals.SILENT, "tensors_with_nan": 20}
    names = ("killed", "damaged", "not_a_number", "permuted", "clock_set_back", "two_at_once")
    outcomes = {name: [bad] for name in (*names, "disk_full")}
    found = reliability.goals([{"name": "nexus", "outcomes": outcomes}])
    assert len(found) == 8 and not any(goal["met"] for goal in found)
    assert reliability.goals([{"name": "trl", "outcomes": outcomes}]) == []
