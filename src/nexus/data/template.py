"""The chat template: conversations → text, and where in it the assistant speaks."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from nexus.batch import ANSWER
from nexus.data.control import MARK, ControlTokens
from nexus.data.faults import BadRow, printable
from nexus.data.layouts import Chat
from nexus.data.template_sandbox import shared
from nexus.data.template_worker import Answer, Conversation
from nexus.errors import UsageError

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

    The template is a stranger's program. It is rendered in a process of its own, within limits.

    Args:
        tokenizer: Must have a chat template.
        control: The tokenizer's control tokens.
        escape: Text that spells a control token stays text. In the assistant's turns this covers
            special tokens only: markers such as `<think>` are written by the assistant itself.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, control: ControlTokens, *, escape: bool = True
    ) -> None:
        source: str = tokenizer.get_chat_template()
        self._marked = re.search(r"\{%-?\s*generation\s*-?%\}", source) is not None
        self._source = FIXED_DATE + source if "strftime_now" in source else source
        self._variables = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
        self._escape = escape
        self._control = control
        self._ends_turn = re.compile(f"(?:{control.special.pattern})\\s*\\Z")
        self._eos = tokenizer.eos_token
        self._owner = tokenizer.name_or_path

    def render(self, chats: Sequence[Chat], places: Sequence[str]) -> list[Rendered | BadRow]:
        """Each conversation as text with the targets' ranges, or why it has none.

        Why: the template refuses it, or what the assistant says cannot be told from the rest.

        Args:
            chats: The conversations.
            places: Where they are, for messages.

        Raises:
            UsageError: if the template is no template, takes too much time, memory or room, or
                tries what its sandbox forbids.
        """
        asked: list[Conversation | BadRow] = []
        for chat in chats:
            try:
                asked.append(self._asked(chat))
            except BadRow as bad:
                asked.append(bad)
        wanted = [one for one in asked if not isinstance(one, BadRow)]
        answers = iter(shared().render(self._source, self._variables, wanted) if wanted else ())
        found: list[Rendered | BadRow] = []
        for chat, place, one in zip(chats, places, asked, strict=True):
            try:
                found.append(
                    one if isinstance(one, BadRow) else self._rendered(chat, next(answers), place)
                )
            except BadRow as bad:
                found.append(bad)
        return found

    def _asked(self, chat: Chat) -> Conversation:
        messages, tools = list(chat.messages), None if chat.tools is None else list(chat.tools)
        if self._escape:
            messages = [self._control.shielded_message(message) for message in messages]
            tools = None if tools is None else self._control.shielded(tools)
        beginnings: list[tuple[int, bool]] = []
        if self._marked and chat.first_target:
            beginnings = [(chat.first_target, True)]
        elif not self._marked:
            for turn in _turns(chat):
                if turn == 0:
                    raise BadRow(
                        "the conversation starts with the assistant: put a user turn before it"
                    )
                beginnings += [(turn + 1, False), (turn, True)]
        return {
            "messages": messages,
            "tools": tools,
            "markers": self._marked,
            "beginnings": beginnings,
            "unfinished": chat.unfinished,
        }

    def _rendered(self, chat: Chat, answer: Answer, place: str) -> Rendered:
        if "fault" in answer:
            raise UsageError(
                f"the chat template of '{self._owner}' is refused at {place}: "
                f"{printable(answer['fault'])}. Use a tokenizer whose template you trust, or put "
                "another chat_template.jinja into the tokenizer's directory."
            )
        if "refused" in answer:
            raise BadRow(
                f"the chat template of '{self._owner}' refuses the conversation: "
                f"{answer['refused']}"
            )
        text, lengths = answer["text"], answer["lengths"]
        if MARK not in text and f"\\u{ord(MARK):04x}" in text:
            raise BadRow("the chat template spells out characters that are to stay as they are")
        if self._marked:
            turns = [(start, stop) for start, stop in answer["blocks"]]
            if chat.first_target:
                head = _head(chat.first_target, lengths[0])
                turns = [turn for turn in turns if turn[0] >= head]
        else:
            ends = [_end(turn, end) for turn, end in zip(_turns(chat), lengths[::2], strict=True)]
            heads = [_head(turn, n) for turn, n in zip(_turns(chat), lengths[1::2], strict=True)]
            turns = list(zip(heads, ends, strict=True))
        return self._unmarked(text, [self._to_end_of_turn(text, *turn) for turn in turns])

    def _to_end_of_turn(self, text: str, start: int, stop: int) -> Span:
        if ended := self._ends_turn.search(text, start, stop):
            stop = start + len(text[start : ended.end()].rstrip())
        elif self._eos and text.startswith(self._eos, stop):
            stop += len(self._eos)
        return Span(start, stop, ANSWER)

    def _unmarked(self, text: str, spans: list[Span]) -> Rendered:
        marks = [match.start() for match in re.finditer(MARK, text)]
        if not marks:
            return Rendered(text, tuple(spans))

        def moved(position: int) -> int:
            return position - bisect_right(marks, position - 1)

        plain = text.replace(MARK, "")
        return Rendered(
            plain,
            tuple(Span(moved(span.start), moved(span.stop), span.part) for span in spans),
            tuple(self._control.forged(plain, sorted({moved(mark) for mark in marks}))),
        )


def _turns(chat: Chat) -> list[int]:
    """Which messages are the assistant's, and targets."""
    speaking = range(chat.first_target, len(chat.messages))
    return [turn for turn in speaking if chat.messages[turn]["role"] == "assistant"]


def _head(turn: int, length: int) -> int:
    """The length of what stands before the assistant's turn."""
    if length < 0:
        raise BadRow(
            f"the chat template's generation prompt is not what it writes before turn {turn}, so "
            "the assistant's tokens cannot be told from the rest: use a template with "
            "{% generation %} markers"
        )
    return length


def _end(turn: int, length: int) -> int:
    """The length of everything up to the end of the assistant's turn."""
    if length < 0:
        raise BadRow(
            f"the chat template writes turn {turn} differently once other turns follow, so its "
            "tokens cannot be told from the rest: use a template with {% generation %} markers, or "
            "end the conversation at that turn"
        )
    return length
