"""The chat template: a conversation → text, and where in it the assistant speaks."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, cast

import jinja2
from transformers import PreTrainedTokenizerBase
from transformers.utils import chat_template_utils

from nexus.batch import ANSWER
from nexus.data.faults import BadRow
from nexus.data.layouts import Chat, Message

# Its published type, `str`, is not what it returns: texts and the ranges of the marked blocks.
_render: Callable[..., tuple[list[str], list[list[tuple[int, int]]]]] = cast(
    Any, chat_template_utils.render_jinja_template
)

FORGED_START, FORGED_END = "\ufdd0", "\ufdd1"
"""Noncharacters, which Unicode keeps for internal use such as this."""

FIXED_DATE = (
    "{%- macro strftime_now(format) -%}"
    "{%- if format == '%d %b %Y' -%}26 Jul 2024{%- else -%}2024-07-26{%- endif -%}"
    "{%- endmacro -%}"
)
"""Some templates write today's date; training data must not change overnight."""


class Span(NamedTuple):
    """A range of characters whose tokens are targets of a part."""

    start: int
    stop: int
    part: int


class Rendered(NamedTuple):
    """A document as text, before it is cut into tokens."""

    text: str
    spans: tuple[Span, ...]
    forged: tuple[tuple[int, int], ...] = ()
    """Ranges that spell a control token but are somebody's text."""


class ChatTemplate:
    """A tokenizer's chat template, with the assistant's turns located in what it writes.

    Where the template has `{% generation %}` markers, they say what the assistant writes. Where it
    has none, a turn is what the rendering up to and with the turn adds to the rendering up to it
    with the generation prompt; that both are prefixes of the whole is verified. Either way the
    end-of-turn token is a target, and white space behind it, which no model ever writes, is not.

    Args:
        tokenizer: Must have a chat template.
        escape: Text that spells a control token stays text. In the assistant's turns this covers
            special tokens only: markers such as `<think>` are written by the assistant itself.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, escape: bool = True) -> None:
        source: str = tokenizer.get_chat_template()
        self._marked = re.search(r"\{%-?\s*generation\s*-?%\}", source) is not None
        self._source = FIXED_DATE + source if "strftime_now" in source else source
        self._variables = dict(tokenizer.special_tokens_map)
        self._escape = escape
        added = tokenizer.added_tokens_decoder.values()
        special = {token.content for token in added if token.special}
        written = {
            token.content
            for token in added
            if token.content in source and not token.content.isspace()
        }
        self._special = any_of(special)
        self._control = any_of(special | written)
        self._ends_turn = re.compile(f"(?:{self._special.pattern})\\s*\\Z")
        self._eos = tokenizer.eos_token

    def render(self, chat: Chat) -> Rendered:
        """The conversation as text with the targets' ranges.

        Raises:
            BadRow: if the template refuses the conversation, or what the assistant says cannot be
                told from the rest.
        """
        messages = [self._shielded(message) for message in chat.messages]
        text, turns = self._turns(messages, chat)
        return _unmark(text, [self._to_end_of_turn(text, *turn) for turn in turns])

    def _turns(self, messages: list[Message], chat: Chat) -> tuple[str, list[tuple[int, int]]]:
        if not self._marked:
            text = self._write(messages, chat)[0]
            speaking = range(chat.first_target, len(messages))
            turns = [i for i in speaking if messages[i]["role"] == "assistant"]
            return text, [self._added_by(turn, text, messages, chat) for turn in turns]
        text, marked = self._write(messages, chat, markers=True)
        if not chat.first_target:
            return text, marked
        head = self._head(chat.first_target, text, messages, chat)
        return text, [turn for turn in marked if turn[0] >= head]

    def _added_by(
        self, turn: int, text: str, messages: list[Message], chat: Chat
    ) -> tuple[int, int]:
        upto = self._write(messages[: turn + 1], chat)[0]
        if not text.startswith(upto):
            raise BadRow(
                f"the chat template writes turn {turn} differently once other turns follow, so its "
                "tokens cannot be told from the rest: use a template with {% generation %} "
                "markers, or end the conversation at that turn"
            )
        return self._head(turn, text, messages, chat), len(upto)

    def _head(self, turn: int, text: str, messages: list[Message], chat: Chat) -> int:
        """The length of what stands before the assistant's turn."""
        if turn == 0:
            raise BadRow("the conversation starts with the assistant: put a user turn before it")
        head = self._write(messages[:turn], chat, prompt=True)[0]
        if not text.startswith(head):
            raise BadRow(
                f"the chat template's generation prompt is not what it writes before turn {turn}, "
                "so the assistant's tokens cannot be told from the rest: use a template with "
                "{% generation %} markers"
            )
        return len(head)

    def _to_end_of_turn(self, text: str, start: int, stop: int) -> Span:
        if ended := self._ends_turn.search(text, start, stop):
            stop = start + len(text[start : ended.end()].rstrip())
        elif self._eos and text.startswith(self._eos, stop):
            stop += len(self._eos)
        return Span(start, stop, ANSWER)

    def _write(
        self,
        messages: Sequence[Message],
        chat: Chat,
        *,
        prompt: bool = False,
        markers: bool = False,
    ) -> tuple[str, list[tuple[int, int]]]:
        try:
            texts, ranges = _render(
                conversations=[list(messages)],
                tools=None if chat.tools is None else list(chat.tools),
                chat_template=self._source,
                return_assistant_tokens_mask=markers,
                add_generation_prompt=prompt,
                **self._variables,
            )
        except (jinja2.TemplateError, TypeError, ValueError) as error:
            raise BadRow(f"the chat template refuses the conversation: {error}") from None
        return texts[0], ranges[0] if markers else []

    def _shielded(self, message: Message) -> Message:
        if not self._escape:
            return message
        pattern = self._special if message["role"] == "assistant" else self._control
        return {name: _shield(value, pattern) for name, value in message.items()}


def any_of(tokens: Iterable[str]) -> re.Pattern[str]:
    """Matches any of the tokens, the longest first; nothing when there is none."""
    return re.compile("|".join(map(re.escape, sorted(tokens, key=len, reverse=True))) or "(?!)")


def _mark(match: re.Match[str]) -> str:
    return f"{FORGED_START}{match[0]}{FORGED_END}"


def _shield(value: Any, pattern: re.Pattern[str]) -> Any:
    match value:
        case str():
            if FORGED_START in value or FORGED_END in value:
                raise BadRow("a message holds the noncharacter U+FDD0 or U+FDD1: remove it")
            return pattern.sub(_mark, value)
        case dict():
            return {name: _shield(item, pattern) for name, item in value.items()}
        case list() | tuple():
            return [_shield(item, pattern) for item in value]
    return value


def _unmark(text: str, spans: list[Span]) -> Rendered:
    marks = [match.start() for match in re.finditer(f"[{FORGED_START}{FORGED_END}]", text)]
    if not marks:
        return Rendered(text, tuple(spans))

    def moved(position: int) -> int:
        return position - bisect_right(marks, position - 1)

    forged = re.finditer(f"{FORGED_START}([^{FORGED_START}{FORGED_END}]*){FORGED_END}", text)
    return Rendered(
        re.sub(f"[{FORGED_START}{FORGED_END}]", "", text),
        tuple(Span(moved(span.start), moved(span.stop), span.part) for span in spans),
        tuple((moved(match.start(1)), moved(match.end(1))) for match in forged),
    )
