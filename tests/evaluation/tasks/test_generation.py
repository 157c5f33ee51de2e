"""Answers are written, found and scored; what cannot be asked is told in one line."""

from __future__ import annotations

import json
import runpy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from nexus.errors import UsageError
from nexus.evaluation.tasks import generation
from nexus.evaluation.tasks.generation import Generation
from nexus.evaluation.tasks.task import fingerprint

TINY = runpy.run_path(str(Path(__file__).parents[3] / "examples" / "tiny.py"))
MATH = [{"question": f"What is {n} and {n}?", "answer": str(2 * n)} for n in range(6)]


@pytest.fixture(scope="module")
def model() -> Any:
    return TINY["make_model"](layers=2, seed=1).eval()


@pytest.fixture
def tokenizer() -> Any:
    return TINY["make_tokenizer"]()


def write(path: Path, rows: Sequence[dict[str, Any]]) -> str:
    numbered = [{"id": str(number), **one} for number, one in enumerate(rows)]
    path.write_text("".join(json.dumps(one) + "\n" for one in numbered))
    return path.name


def scored(task: Generation, folder: Path, model: Any, tokenizer: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for some in task.score(task.items(folder), model, tokenizer):
        found |= some
    return found


@pytest.mark.parametrize("chat", [True, False])
def test_every_batch_size_writes_the_same(
    tmp_path: Path, model: Any, tokenizer: Any, chat: bool
) -> None:
    rows = [{**row, "question": row["question"] * (n % 3 + 1)} for n, row in enumerate(MATH)]
    name = write(tmp_path / "math.jsonl", rows)
    found = [
        scored(
            Generation(path=name, batch_size=size, max_new_tokens=8, chat=chat),
            tmp_path,
            model,
            tokenizer,
        )
        for size in (1, 4)
    ]
    assert found[0] == found[1]
    assert set(found[0]) == {str(n) for n in range(len(rows))}
    assert len({one.said["text"] for one in found[0].values()}) > 1


def test_right_wrong_and_unanswered_are_told_apart(
    tmp_path: Path, model: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = ["So 1 + 1 = 2.", "#### 5", "I cannot say"]
    monkeypatch.setattr(generation, "write", lambda *args, **settings: texts)
    task = Generation(path=write(tmp_path / "m.jsonl", [MATH[1]] * 3), max_new_tokens=8)
    found = scored(task, tmp_path, model, tokenizer)
    by_text = {
        one.said["text"]: (one.scores["exact_match"], one.answered) for one in found.values()
    }
    assert by_text == {texts[0]: (1.0, True), texts[1]: (0.0, True), texts[2]: (0.0, False)}
    stated = scored(task.model_copy(update={"stated": True}), tmp_path, model, tokenizer)
    assert [one.answered for one in stated.values() if one.said["text"] == texts[0]] == [False]


def test_a_choice_that_is_there_twice_is_right_either_way(
    tmp_path: Path, model: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = {"question": "Where?", "choices": ["hotel", "house", "hotel"], "label": 2}
    monkeypatch.setattr(generation, "write", lambda *args, **settings: ["(A)"])
    task = Generation(path=write(tmp_path / "m.jsonl", [row]), max_new_tokens=8)
    assert scored(task, tmp_path, model, tokenizer)["0"].scores == {"exact_match": 1.0}


def test_guessing_scores_by_the_form(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"question": "1?", "choices": ["a", "b", "c", "d"], "label": 1},
        {"question": "2?", "choices": ["a", "b"], "label": 1},
    ]
    task = Generation(path=write(tmp_path / "c.jsonl", rows))
    assert task.chance(task.items(tmp_path)) == (0.25 + 0.5) / 2
    rows = [{"input": "1?", "target": "Yes"}, {"input": "2?", "target": "7"}]
    task = Generation(path=write(tmp_path / "g.jsonl", rows))
    assert task.chance(task.items(tmp_path)) == (0.5 + 0) / 2


def test_an_answer_ends_where_the_next_question_would_begin(
    tmp_path: Path, model: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, ...]] = []

    def keep(*args: Any, stop: tuple[str, ...], **settings: Any) -> list[str]:
        seen.append(stop)
        return ["1"]

    monkeypatch.setattr(generation, "write", keep)
    name = write(tmp_path / "m.jsonl", MATH[:1])
    for settings in ({}, {"chat": True}, {"stop": ("###",)}):
        scored(Generation(path=name, max_new_tokens=8, **settings), tmp_path, model, tokenizer)
    assert seen == [("\nQuestion:",), (), ("###",)]


def test_what_decides_the_outcome_is_in_the_fingerprint(tmp_path: Path) -> None:
    name, shots = write(tmp_path / "m.jsonl", MATH[:2]), write(tmp_path / "x.jsonl", MATH[2:])
    tasks = [
        Generation(path=name),
        Generation(path=name, chat=True),
        Generation(path=name, stated=True),
        Generation(path=name, max_new_tokens=9),
        Generation(path=name, stop=("x",)),
        Generation(path=name, prompt="{question}"),
        Generation(path=name, examples=shots),
        Generation(path=name, examples=shots, shots=1),
    ]
    assert len({fingerprint(task, task.items(tmp_path)) for task in tasks}) == len(tasks)
    small = Generation(path=name, batch_size=1)
    assert fingerprint(small, small.items(tmp_path)) == fingerprint(
        tasks[0], tasks[0].items(tmp_path)
    )


@pytest.mark.parametrize(
    ("rows", "settings", "said"),
    [
        ([{"question": "Q?"}], {}, "m.jsonl:1: the row has the columns 'id', 'question'"),
        ([{"question": "Q", "choices": ["a", "b"], "label": 2}], {}, "out of range"),
        ([], {}, "m.jsonl: there is no item in it"),
        (MATH, {"examples": "x.jsonl", "shots": 9}, "'shots' is 9, but x.jsonl has 1 examples"),
        (MATH, {"examples": "x.jsonl"}, "m.jsonl:1: its question is also an example"),
        (MATH, {"prompt": "{text}"}, "column 'text' is missing"),
        ([{"question": "Q", "answer": "many"}], {"answer": "number"}, "which is no number"),
    ],
)
def test_what_cannot_be_asked_is_told_in_one_line(
    tmp_path: Path, rows: list[dict[str, Any]], settings: dict[str, Any], said: str
) -> None:
    write(tmp_path / "m.jsonl", rows)
    write(tmp_path / "x.jsonl", MATH[:1])
    with pytest.raises(UsageError) as error:
        Generation(path="m.jsonl", **settings).items(tmp_path)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_chat_needs_a_template_and_a_prompt_needs_room(
    tmp_path: Path, model: Any, tokenizer: Any
) -> None:
    name = write(tmp_path / "m.jsonl", MATH)
    with pytest.raises(UsageError, match=r"m.jsonl, item '\d': its prompt has .* ends at 256"):
        scored(Generation(path=name, max_new_tokens=250), tmp_path, model, tokenizer)
    tokenizer.chat_template = None
    with pytest.raises(UsageError, match="has no chat template"):
        scored(Generation(path=name, chat=True), tmp_path, model, tokenizer)


def test_shots_need_examples_and_no_stop_is_empty() -> None:
    with pytest.raises(UsageError, match="shots needs 'examples'"):
        Generation.parse({"path": "m.jsonl", "shots": 3})
    with pytest.raises(UsageError, match="stop holds an empty string"):
        Generation.parse({"path": "m.jsonl", "stop": [""]})


def test_numbers_of_the_model_are_in_full_precision_here(model: Any) -> None:
    assert model.dtype == torch.float32, "what is said of batches holds for it"
