"""Tasks of lm-evaluation-harness from local files, by its own scores; without it, one line."""

from __future__ import annotations

import json
import runpy
from importlib.metadata import PackageNotFoundError
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from nexus.errors import UsageError
from nexus.evaluation.tasks import lm_eval
from nexus.evaluation.tasks.choice import Choice
from nexus.evaluation.tasks.lm_eval import LmEval
from nexus.evaluation.tasks.running import facts, run

TINY = runpy.run_path(str(Path(__file__).parents[3] / "examples" / "tiny.py"))
CHOICES = [["a", "b"], ["a", "b", "c"]]
ROWS = [
    {"id": str(n), "question": f"Which is {n}?", "choices": CHOICES[n % 2], "label": n % 2}
    for n in range(9)
]

needs_library = pytest.mark.skipif(find_spec("lm_eval") is None, reason="lm-eval is an extra")
quiet = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    data = tmp_path / "local.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    task = {
        "task": "local_choice",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "Question: {{question}}\nAnswer:",
        "doc_to_target": "label",
        "doc_to_choice": "choices",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    }
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "local.yaml").write_text(yaml.safe_dump(task))
    return tmp_path


@needs_library
@quiet
def test_its_scores_are_those_of_our_own_choice_item_by_item(folder: Path) -> None:
    model, tokenizer = TINY["make_model"](layers=2, seed=1), TINY["make_tokenizer"]()
    theirs = run(LmEval(name="local_choice", include_path="tasks"), model, tokenizer, folder=folder)
    ours = run(Choice(path="local.jsonl"), model, tokenizer, folder=folder)
    assert theirs.keys == tuple(f"local_choice/{n}" for n in range(9))
    assert theirs.scores["acc"].tolist() == ours.scores["accuracy"].tolist()
    assert theirs.scores["acc_norm"].tolist() == ours.scores["accuracy_norm"].tolist()
    assert 0 < theirs.scores["acc"].mean() < 1
    assert theirs.unanswered == 0


@needs_library
@quiet
def test_a_limit_and_a_ledger_change_no_score(folder: Path, monkeypatch: Any) -> None:
    model, tokenizer = TINY["make_model"](layers=2, seed=1), TINY["make_tokenizer"]()
    task = LmEval(name="local_choice", include_path="tasks", shots=0)
    whole = run(task, model, tokenizer, folder=folder)
    monkeypatch.setattr(lm_eval, "_ITEMS_AT_A_TIME", 2)
    some = task.model_copy(update={"limit": 5})
    ledger = folder / "ledger.jsonl"
    found = run(some, model, tokenizer, folder=folder, ledger=ledger)
    assert len(found) == 5
    by_key = dict(zip(whole.keys, whole.scores["acc"], strict=True))
    assert found.scores["acc"].tolist() == [by_key[key] for key in found.keys]
    lines = len(ledger.read_text().splitlines())
    again = run(task, model, tokenizer, folder=folder, ledger=ledger)
    assert again.scores["acc"].tolist() == whole.scores["acc"].tolist()
    assert len(ledger.read_text().splitlines()) == lines + 4, "five were known"


@needs_library
@quiet
def test_guessing_scores_one_over_the_choices(folder: Path) -> None:
    found = facts(LmEval(name="local_choice", include_path="tasks"), folder)
    assert found.kind == "lm_eval"
    assert found.items == 9
    assert found.chance == pytest.approx((5 / 2 + 4 / 3) / 9)


@needs_library
@quiet
def test_what_a_filter_calls_invalid_is_unanswered(folder: Path) -> None:
    path = folder / "tasks" / "local.yaml"
    task = yaml.safe_load(path.read_text())
    del task["doc_to_choice"]
    digit = {"function": "regex", "regex_pattern": "([0-9])"}
    letter = {"function": "regex", "regex_pattern": "(.)"}
    first = {"function": "take_first"}
    task |= {
        "task": "local_written",
        "output_type": "generate_until",
        "doc_to_target": "{{label}}",
        "generation_kwargs": {"max_gen_toks": 12, "until": ["\n\n"]},
        "filter_list": [
            {"name": "digit", "filter": [digit, first]},
            {"name": "any", "filter": [letter, first]},
        ],
        "metric_list": [{"metric": "exact_match"}],
    }
    (folder / "tasks" / "written.yaml").write_text(yaml.safe_dump(task))
    model, tokenizer = TINY["make_model"](layers=2, seed=1), TINY["make_tokenizer"]()
    spec = LmEval(name="local_written", include_path="tasks")
    assert facts(spec, folder).metric == "exact_match"
    assert facts(spec, folder).chance == 0
    ledger = folder / "ledger.jsonl"
    found = run(spec, model, tokenizer, folder=folder, ledger=ledger)
    assert set(found.scores) == {"exact_match", "exact_match (any)"}
    said = [json.loads(line)["said"]["answer"] for line in ledger.read_text().splitlines()]
    assert 0 < found.unanswered == sum("invalid" in one for one in said)


@needs_library
@quiet
def test_what_it_has_not_is_told_in_one_line(folder: Path, monkeypatch: Any) -> None:
    from lm_eval.tasks import TaskManager

    with pytest.raises(UsageError, match="set metric to one of acc, acc_norm"):
        LmEval(name="local_choice", include_path="tasks", metric="f1").items(folder)
    with pytest.raises(UsageError, match="include_path 'nowhere' is no folder"):
        LmEval(name="local_choice", include_path="nowhere").items(folder)
    # The library's own tasks take long to list.
    only = TaskManager(include_path=str(folder / "tasks"), include_defaults=False)
    monkeypatch.setattr("lm_eval.tasks.TaskManager", lambda **settings: only)
    with pytest.raises(UsageError, match="no task 'local_chioce': did you mean 'local_choice'"):
        LmEval(name="local_chioce", include_path="tasks").items(folder)


@needs_library
@quiet
def test_data_that_cannot_be_had_are_told_in_one_line(folder: Path) -> None:
    path = folder / "tasks" / "local.yaml"
    task = yaml.safe_load(path.read_text())
    del task["dataset_kwargs"]
    path.write_text(yaml.safe_dump({**task, "dataset_path": "nobody/nothing", "task": "remote"}))
    with pytest.raises(UsageError, match="'remote' of lm-eval cannot be loaded") as error:
        LmEval(name="remote", include_path="tasks").items(folder)
    assert "\n" not in str(error.value)


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(lm_eval, "version", absent)
    lm_eval._loaded.cache_clear()
    with pytest.raises(UsageError, match=r"pip install 'nexus-distillation\[eval\]'"):
        LmEval(name="arc_easy").items(Path())


def test_it_needs_a_name() -> None:
    with pytest.raises(UsageError, match="lm_eval needs the 'name'"):
        LmEval.parse({"kind": "lm_eval"})
