"""A task is put item by item, told in its own order, and goes on where a killed one stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers.normalizers import Lowercase

from nexus.evaluation.tasks import choice
from nexus.evaluation.tasks.choice import Choice
from nexus.evaluation.tasks.running import facts, run

ROWS = [
    {
        "id": f"k{n}",
        "question": f"{n} " + "why " * (20 + n % 7),
        "choices": ["yes", "no", "who knows"],
        "label": n % 3,
    }
    for n in range(45)
]

KILLED = """
import os, runpy, signal, sys
from pathlib import Path
from nexus.evaluation.tasks.choice import Choice
from nexus.evaluation.tasks.running import run
tiny = runpy.run_path(sys.argv[1])
folder = Path(sys.argv[2])
def die(text):
    os.kill(os.getpid(), signal.SIGKILL)
run(Choice(path="items.jsonl"), tiny["make_model"](layers=2, seed=1), tiny["make_tokenizer"](),
    folder=folder, ledger=folder / "ledger.jsonl", say=die)
"""


def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The prompts that a model is asked about from now on."""
    prompts: list[str] = []
    likelihoods = choice.likelihoods

    def noting(model: Any, tokenizer: Any, groups: Any) -> Iterator[Any]:
        prompts.extend(group[0].context for group in groups)
        return likelihoods(model, tokenizer, groups)

    monkeypatch.setattr(choice, "likelihoods", noting)
    return prompts


def test_killed_in_the_middle_the_same_call_goes_on_and_asks_nothing_twice(
    model: Any, tokenizer: Any, write_items: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, ledger = Choice(path=write_items(ROWS)), tmp_path / "ledger.jsonl"
    tiny = Path(__file__).parents[3] / "examples" / "tiny.py"
    dead = subprocess.run([sys.executable, "-c", KILLED, str(tiny), str(tmp_path)], check=False)
    assert dead.returncode == -signal.SIGKILL
    before = len(ledger.read_text().splitlines())
    assert 0 < before < len(ROWS)
    with ledger.open("a") as file:  # as if it had been killed while writing
        file.write('{"of": "')
    prompts, said = asked(monkeypatch), list[str]()
    resumed = run(task, model, tokenizer, folder=tmp_path, ledger=ledger, say=said.append)
    assert len(prompts) == len(set(prompts)) == len(ROWS) - before
    assert said[0] == f"items: {before} of {len(ROWS)} items were scored before"
    assert len(ledger.read_text().splitlines()) == len(ROWS)
    whole = run(task, model, tokenizer, folder=tmp_path)
    assert resumed.keys == whole.keys == tuple(row["id"] for row in ROWS)
    for metric, scores in whole.scores.items():
        assert resumed.scores[metric].tolist() == scores.tolist()


def test_a_larger_limit_asks_only_what_is_new(
    model: Any, tokenizer: Any, write_items: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, ledger = write_items(ROWS[:20]), tmp_path / "ledger.jsonl"
    prompts = asked(monkeypatch)
    whole = run(Choice(path=path), model, tokenizer, folder=tmp_path)
    right = dict(zip(whole.keys, whole.scores["accuracy"], strict=True))
    assert 0 < whole.scores["accuracy"].mean() < 1
    for limit, new in ((5, 5), (12, 7), (5, 0), (None, 8)):
        prompts.clear()
        found = run(
            Choice(path=path, limit=limit), model, tokenizer, folder=tmp_path, ledger=ledger
        )
        assert (len(found), len(prompts)) == (limit or 20, new)
        assert found.scores["accuracy"].tolist() == [right[key] for key in found.keys]


def test_another_model_or_wording_is_asked_anew(
    model: Any, tokenizer: Any, write_items: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, prompts = write_items(ROWS[:4]), asked(monkeypatch)
    ledger = tmp_path / "ledger.jsonl"
    run(Choice(path=path), model, tokenizer, folder=tmp_path, ledger=ledger)
    run(Choice(path=path, delimiter=""), model, tokenizer, folder=tmp_path, ledger=ledger)
    assert len(prompts) == 8
    with torch.no_grad():
        model.get_decoder().norm.weight[0] += 1e-3
    run(Choice(path=path), model, tokenizer, folder=tmp_path, ledger=ledger)
    assert len(prompts) == 12
    tokenizer.backend_tokenizer.normalizer = Lowercase()
    run(Choice(path=path), model, tokenizer, folder=tmp_path, ledger=ledger)
    assert len(prompts) == 16


def test_a_model_is_left_in_its_mode(
    model: Any, tokenizer: Any, write_items: Any, tmp_path: Path
) -> None:
    model.train()
    run(Choice(path=write_items(ROWS[:2])), model, tokenizer, folder=tmp_path)
    assert all(part.training for part in model.modules())


def test_facts_tell_what_is_put(write_items: Any, tmp_path: Path) -> None:
    path = write_items(ROWS[:6])
    known = facts(Choice(path=path), tmp_path)
    assert (known.kind, known.metric, known.items) == ("choice", "accuracy", 6)
    assert known.chance == pytest.approx(1 / 3)
    assert known == facts(Choice(path=path, name="another"), tmp_path)
    assert known.fingerprint != facts(Choice(path=path, limit=5), tmp_path).fingerprint
    assert os.listdir(tmp_path) == ["items.jsonl"]
