"""Layouts: which columns a row has, and what they say. Recognised without registration."""

from __future__ import annotations

import difflib
import re
import reprlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from nexus.batch import ANSWER, RATIONALE
from nexus.data.faults import BadRow, unclean

Columns = Mapping[str, Any]
Message = dict[str, Any]

NOT_A_TARGET = -1

DEEPEST = 32
"""Lists and objects within each other: more is an attack, or a mistake."""

_ROLE = re.compile(r"\w[\w .-]{0,63}")


class Piece(NamedTuple):
    """Some text, and the part its tokens are targets of (`NOT_A_TARGET`: context only)."""

    text: str
    part: int


@dataclass(frozen=True)
class Text:
    """A plain text: every token is a target."""

    text: str


@dataclass(frozen=True)
class Written:
    """A prompt and what follows it, written out: no chat template."""

    pieces: tuple[Piece, ...]


@dataclass(frozen=True)
class Chat:
    """A conversation for the chat template. Assistant turns are targets from `first_target` on."""

    messages: tuple[Message, ...]
    first_target: int = 0
    tools: tuple[dict[str, Any], ...] | None = None
    unfinished: bool = False
    """The generation prompt follows the last message: it is for the assistant to go on."""


Content = Text | Written | Chat


def task_of(columns: Columns) -> str | None:
    """The row's own task, if it has one.

    Raises:
        BadRow: if it is no name that can be printed.
    """
    task = columns.get("task")
    if task is not None and not (isinstance(task, str) and task.isprintable() and len(task) <= 100):
        raise BadRow(f"'task' is {_shown(task)}, not a name of at most 100 printable characters")
    return task


class Layout(NamedTuple):
    """One way to lay out a row. Of several that fit, the first in `LAYOUTS` is meant."""

    needs: tuple[str, ...]
    may_have: tuple[str, ...]
    read: Callable[[Columns], Content]


def content(columns: Columns) -> Content:
    """What a row says.

    Raises:
        BadRow: if no layout fits the columns, or a value has the wrong type or is empty.
    """
    if strange := [name for name in columns if not isinstance(name, str)]:
        raise BadRow(f"the column {_shown(strange[0])} has no string for a name")
    given = {name for name, value in columns.items() if value is not None}
    for known in (given, set(columns)):
        for layout in LAYOUTS:
            if known.issuperset(layout.needs):
                return layout.read(columns)
    raise BadRow(_unrecognised(columns))


def _read_messages(columns: Columns) -> Content:
    messages = _messages(columns, "messages")
    return Chat(messages, tools=_tools(columns))


def _read_sharegpt(columns: Columns) -> Content:
    turns = _list(columns, "conversations")
    messages = [_system_message(columns)] if columns.get("system") else []
    for number, turn in enumerate(turns):
        where = f"conversations[{number}]"
        if not isinstance(turn, Mapping):
            raise BadRow(f"{where} is {_shown(turn)}, not an object with 'from' and 'value'")
        speaker = _string(turn, "from", where)
        if speaker not in SHAREGPT_ROLES:
            raise BadRow(
                f"{where}.from is '{speaker}', which is no known speaker: "
                f"{', '.join(sorted(SHAREGPT_ROLES))}"
            )
        value = _string(turn, "value", where)
        messages.append({"role": SHAREGPT_ROLES[speaker], "content": value})
    _check_turns(messages, "conversations")
    return Chat(tuple(messages))


def _read_prompt_completion(columns: Columns) -> Content:
    prompt, completion = columns["prompt"], columns["completion"]
    if isinstance(prompt, list) and isinstance(completion, list):
        before = _messages(columns, "prompt")
        after = _messages(columns, "completion")
        return Chat(before + after, first_target=len(before), tools=_tools(columns))
    return Written(
        (
            Piece(_string(columns, "prompt"), NOT_A_TARGET),
            Piece(_filled(columns, "completion"), ANSWER),
        )
    )


def _read_alpaca(columns: Columns) -> Content:
    messages = [_system_message(columns)] if columns.get("system") else []
    history = _list(columns, "history") if columns.get("history") else []
    for number, pair in enumerate(history):
        where = f"history[{number}]"
        if not (isinstance(pair, list | tuple) and len(pair) == 2):
            raise BadRow(f"{where} is {_shown(pair)}, not a pair of instruction and answer")
        for role, text in zip(("user", "assistant"), pair, strict=True):
            if not isinstance(text, str):
                raise BadRow(f"{where} holds {_shown(text)}, not two strings")
            messages.append({"role": role, "content": _clean(text, where)})
    asked = _filled(columns, "instruction")
    if columns.get("input"):
        asked += "\n" + _string(columns, "input")
    messages.append({"role": "user", "content": asked})
    messages.append({"role": "assistant", "content": _filled(columns, "output")})
    _check_turns(messages, "history")
    return Chat(tuple(messages))


def _read_question(columns: Columns) -> Content:
    pieces = [Piece(_filled(columns, "question") + "\n", NOT_A_TARGET)]
    if columns.get("rationale"):
        pieces.append(Piece(_string(columns, "rationale") + "\n", RATIONALE))
    pieces.append(Piece(_filled(columns, "answer"), ANSWER))
    return Written(tuple(pieces))


def _read_text(columns: Columns) -> Content:
    return Text(_filled(columns, "text"))


LAYOUTS: tuple[Layout, ...] = (
    Layout(("messages",), ("tools",), _read_messages),
    Layout(("conversations",), ("system",), _read_sharegpt),
    Layout(("prompt", "completion"), ("tools",), _read_prompt_completion),
    Layout(("instruction", "output"), ("input", "system", "history"), _read_alpaca),
    Layout(("question", "answer"), ("rationale",), _read_question),
    Layout(("text",), (), _read_text),
)

SHAREGPT_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "system": "system",
    "tool": "tool",
    "observation": "tool",
}


def _messages(columns: Columns, column: str) -> tuple[Message, ...]:
    messages: list[Message] = []
    for number, message in enumerate(_list(columns, column)):
        where = f"{column}[{number}]"
        if not isinstance(message, Mapping):
            raise BadRow(f"{where} is {_shown(message)}, not an object with 'role' and 'content'")
        clean = {name: value for name, value in message.items() if value is not None}
        role = _filled(message, "role", where)
        if not _ROLE.fullmatch(role):
            raise BadRow(f"{where}.role is {_shown(role)}, which is no name")
        if not clean.get("tool_calls") or "content" in clean:
            _string(message, "content", where)
        _check_plain(clean, where)
        messages.append(clean)
    _check_turns(messages, column)
    return tuple(messages)


def _check_turns(messages: Iterable[Message], column: str) -> None:
    for message in messages:
        silent = not message.get("tool_calls") and not message["content"].strip()
        if message["role"] == "assistant" and silent:
            raise BadRow(f"an assistant turn of '{column}' is empty")


def _system_message(columns: Columns) -> Message:
    return {"role": "system", "content": _string(columns, "system")}


def _tools(columns: Columns) -> tuple[dict[str, Any], ...] | None:
    if not columns.get("tools"):
        return None
    tools = _list(columns, "tools")
    if not all(isinstance(tool, dict) for tool in tools):
        raise BadRow("'tools' is not a list of objects")
    _check_plain(tools, "'tools'")
    return tuple(tools)


def _list(columns: Columns, column: str) -> list[Any]:
    value = columns[column]
    if not isinstance(value, list | tuple):
        raise BadRow(f"'{column}' is {_shown(value)}, not a list")
    if not value:
        raise BadRow(f"'{column}' is empty")
    return list(value)


def _filled(columns: Columns, column: str, where: str = "") -> str:
    text = _string(columns, column, where)
    if not text.strip():
        raise BadRow(f"{_named(column, where)} is empty")
    return text


def _string(columns: Columns, column: str, where: str = "") -> str:
    if column not in columns:
        raise BadRow(f"{_named(column, where)} is missing: {where} has {_quoted(columns)}")
    value = columns[column]
    if not isinstance(value, str):
        raise BadRow(f"{_named(column, where)} is {_shown(value)}, not a string")
    return _clean(value, _named(column, where))


def _clean(text: str, where: str) -> str:
    if reason := unclean(text):
        raise BadRow(f"{where} cannot be used: {reason}")
    return text


def _check_plain(value: Any, where: str, depth: int = 0) -> None:
    """Refuses what JSON has not, what no text may hold, and nesting without end."""
    if depth > DEEPEST:
        raise BadRow(f"{where} is nested more than {DEEPEST} deep")
    match value:
        case str():
            _clean(value, where)
        case Mapping():
            for name, item in value.items():
                if not isinstance(name, str):
                    raise BadRow(f"{where} has the key {_shown(name)}, which is not a string")
                _clean(name, where)
                _check_plain(item, where, depth + 1)
        case list() | tuple():
            for item in value:
                _check_plain(item, where, depth + 1)
        case int() if abs(value) >= 2**64:
            raise BadRow(f"{where} holds a number of more than 64 bits")
        case None | bool() | int() | float():
            pass
        case _:
            raise BadRow(f"{where} holds a {type(value).__name__}, which JSON has not")


def _named(column: str, where: str) -> str:
    return f"{where}.{column}" if where else f"'{column}'"


def _shown(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bytes():
            return "bytes"
        case int() if abs(value) >= 2**64:
            return "a number of more than 64 bits"
    return _BRIEF.repr(value)


_BRIEF = reprlib.Repr()
_BRIEF.maxstring = _BRIEF.maxother = 60
_BRIEF.maxlevel = 2


def _quoted(names: Iterable[str]) -> str:
    some = [f"'{str(name)[:40]}'" for name in names]
    return ", ".join(some[:20]) + (" …" if len(some) > 20 else "") or "nothing"


def _unrecognised(columns: Columns) -> str:
    known = "; ".join(
        " + ".join(layout.needs) + "".join(f" [+ {name}]" for name in layout.may_have)
        for layout in LAYOUTS
    )
    hint = _hint(set(columns))
    return f"no known layout has the columns {_quoted(columns)}{hint}. Known layouts: {known}"


def _hint(given: set[str]) -> str:
    wanted = sorted({name for layout in LAYOUTS for name in layout.needs} - given)
    for name in sorted(given)[:20]:
        if close := difflib.get_close_matches(name.lower(), wanted, n=1, cutoff=0.7):
            return f" (did you mean '{close[0]}' by '{name}'?)"
    for layout in LAYOUTS:
        if present := given.intersection(layout.needs):
            lacking = [name for name in layout.needs if name not in given]
            return f" ({_quoted(sorted(present))} needs {_quoted(lacking)} beside it)"
    return ""
