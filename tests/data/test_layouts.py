from __future__ import annotations

from typing import Any

import pytest

from nexus.batch import ANSWER, RATIONALE
from nexus.data.faults import BadRow
from nexus.data.layouts import NOT_A_TARGET, Chat, Content, Piece, Text, Written, content

USER, ASSISTANT = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
SYSTEM = {"role": "system", "content": "s"}
DIALOGUE = [USER, ASSISTANT]

KNOWN: dict[str, tuple[dict[str, Any], Content]] = {
    "text": ({"text": "t"}, Text("t")),
    "prompt and completion": (
        {"prompt": "p", "completion": "c"},
        Written((Piece("p", NOT_A_TARGET), Piece("c", ANSWER))),
    ),
    "prompt and completion of messages": (
        {"prompt": [USER], "completion": [ASSISTANT]},
        Chat((USER, ASSISTANT), first_target=1),
    ),
    "messages": ({"messages": DIALOGUE}, Chat((USER, ASSISTANT))),
    "messages with tools": (
        {"messages": DIALOGUE, "tools": [{"name": "f"}]},
        Chat((USER, ASSISTANT), tools=({"name": "f"},)),
    ),
    "alpaca": ({"instruction": "q", "output": "a"}, Chat((USER, ASSISTANT))),
    "alpaca with an input": (
        {"instruction": "q", "input": "x", "output": "a"},
        Chat(({"role": "user", "content": "q\nx"}, ASSISTANT)),
    ),
    "alpaca with system and history": (
        {"instruction": "q", "input": "", "output": "a", "system": "s", "history": [["q", "a"]]},
        Chat((SYSTEM, USER, ASSISTANT, USER, ASSISTANT)),
    ),
    "sharegpt": (
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
        Chat((USER, ASSISTANT)),
    ),
    "sharegpt with system": (
        {
            "system": "s",
            "conversations": [{"from": "user", "value": "q"}, {"from": "assistant", "value": "a"}],
        },
        Chat((SYSTEM, USER, ASSISTANT)),
    ),
    "question, rationale and answer": (
        {"question": "q", "rationale": "r", "answer": "a"},
        Written((Piece("q\n", NOT_A_TARGET), Piece("r\n", RATIONALE), Piece("a", ANSWER))),
    ),
    "question and answer": (
        {"question": "q", "answer": "a", "rationale": ""},
        Written((Piece("q\n", NOT_A_TARGET), Piece("a", ANSWER))),
    ),
}


@pytest.mark.parametrize(("columns", "expected"), KNOWN.values(), ids=KNOWN.keys())
def test_layouts_are_recognised_among_other_columns(
    columns: dict[str, Any], expected: Content
) -> None:
    assert content(columns) == expected
    assert content({"id": 7, **columns, "source": None}) == expected


def test_columns_that_are_null_do_not_decide() -> None:
    assert content({"messages": None, "text": "t"}) == Text("t")


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "null text": ({"text": None}, "'text' is null, not a string"),
    "number as text": ({"text": 7}, "'text' is 7, not a string"),
    "empty text": ({"text": " \n"}, "'text' is empty"),
    "NUL": ({"text": "a\x00"}, "NUL"),
    "lone surrogate": ({"text": "a\ud800"}, "surrogate"),
    "empty completion": ({"prompt": "p", "completion": ""}, "'completion' is empty"),
    "prompt of messages, completion a string": (
        {"prompt": [USER], "completion": "c"},
        "'prompt' is [{",
    ),
    "messages no list": ({"messages": "hi"}, "'messages' is 'hi', not a list"),
    "no messages": ({"messages": []}, "'messages' is empty"),
    "message no object": ({"messages": ["hi"]}, "messages[0] is 'hi', not an object"),
    "message without role": ({"messages": [{"content": "q"}]}, "messages[0].role is missing"),
    "message without content": (
        {"messages": [USER, {"role": "assistant"}]},
        "messages[1].content is missing",
    ),
    "message with null content": (
        {"messages": [{"role": "user", "content": None}]},
        "messages[0].content is null",
    ),
    "silent assistant": ({"messages": [USER, {"role": "assistant", "content": ""}]}, "is empty"),
    "unknown speaker": (
        {"conversations": [{"from": "dog", "value": "woof"}]},
        "conversations[0].from is 'dog', which is no known speaker",
    ),
    "history of single strings": (
        {"instruction": "q", "output": "a", "history": ["q"]},
        "history[0] is 'q', not a pair",
    ),
    "empty answer": ({"question": "q", "answer": ""}, "'answer' is empty"),
    "number as answer": ({"question": "q", "answer": 4}, "'answer' is 4, not a string"),
}


@pytest.mark.parametrize(("columns", "reason"), BAD.values(), ids=BAD.keys())
def test_wrong_values_are_named(columns: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadRow) as caught:
        content(columns)
    assert reason in str(caught.value)


def test_a_turn_that_only_calls_tools_may_be_silent() -> None:
    call = {"role": "assistant", "content": None, "tool_calls": [{"name": "f"}]}
    read = content({"messages": [USER, call]})
    assert isinstance(read, Chat)
    assert read.messages[1] == {"role": "assistant", "tool_calls": [{"name": "f"}]}


@pytest.mark.parametrize(
    ("columns", "hint"),
    [
        ({"mesages": []}, "did you mean 'messages' by 'mesages'?"),
        ({"Text": "a"}, "did you mean 'text' by 'Text'?"),
        ({"question": "q", "choices": []}, "'question' needs 'answer' beside it"),
        ({"prompt": "p"}, "'prompt' needs 'completion' beside it"),
        ({"x": 1}, "'x'"),
    ],
)
def test_unknown_columns_are_named_with_the_nearest_layout(
    columns: dict[str, Any], hint: str
) -> None:
    with pytest.raises(BadRow) as caught:
        content(columns)
    assert hint in str(caught.value)
    assert "prompt + completion" in str(caught.value)
