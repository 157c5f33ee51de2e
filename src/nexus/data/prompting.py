"""Prompts as token ids: what a model is given, for it to go on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from transformers import PreTrainedTokenizerBase

from nexus.data.control import ControlTokens
from nexus.data.cutting import Cutter
from nexus.data.faults import BadRow
from nexus.data.layouts import Chat, Written
from nexus.data.template import ChatTemplate, Rendered
from nexus.errors import UsageError

_REPLY = "A reply."
_Found = TypeVar("_Found")


class Prompter:
    """Turns what is asked into the token ids after which a model is to write.

    Text that spells a control token stays text. BOS is added where and as the tokenizer itself
    does, and never an EOS.

    Args:
        tokenizer: Any Hugging Face tokenizer.
        chat: Put what is asked as a user's turn of the tokenizer's chat template, after which the
            assistant's begins.

    Raises:
        UsageError: if `chat` is asked for and the tokenizer has no chat template.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, chat: bool) -> None:
        if chat and not tokenizer.chat_template:
            raise UsageError(
                f"the tokenizer '{tokenizer.name_or_path}' has no chat template. Set chat: false, "
                "or add chat_template.jinja to the tokenizer's directory."
            )
        self._tokenizer = tokenizer
        self._chat = chat
        self._control = ControlTokens(tokenizer)
        self._cutter = Cutter(tokenizer, self._control, escape=True)
        self._template = ChatTemplate(tokenizer, self._control) if chat else None

    def ids(self, asked: Sequence[str], places: Sequence[str]) -> list[list[int]]:
        """The token ids of each prompt.

        Args:
            asked: The texts.
            places: Where they are from, for messages.

        Raises:
            UsageError: if the chat template or the tokenizer does not take one of them.
        """
        contents: list[Chat | Written]
        rendered: list[Rendered | BadRow]
        if self._template:
            chats = [_question(text) for text in asked]
            contents, rendered = [*chats], self._template.render(chats, places)
        else:
            contents, rendered = [Written(())] * len(asked), [self._plain(text) for text in asked]
        texts = [_sound(text, place) for text, place in zip(rendered, places, strict=True)]
        cuts = self._cutter.cut(contents, texts)
        found = [_sound(cut, place).ids.tolist() for cut, place in zip(cuts, places, strict=True)]
        return [self._open(ids) for ids in found]

    def end_ids(self) -> list[int]:
        """The tokens that end what a model writes: EOS, and in a chat what ends a turn."""
        ends = [self._tokenizer.eos_token_id]
        if self._template:
            written = self._exchange(self._template)
            end = self._control.special.search(written, written.index(_REPLY) + len(_REPLY))
            if end:
                ends.append(self._tokenizer.convert_tokens_to_ids(end[0]))
        return sorted({int(id_) for id_ in ends if id_ is not None})

    def _exchange(self, template: ChatTemplate) -> str:
        """A question and its answer as the template writes them."""
        messages = ({"role": "user", "content": "1"}, {"role": "assistant", "content": _REPLY})
        # Where the assistant's words begin cannot be told in every template, and need not be.
        chats = [Chat(messages, first_target=target) for target in (2, 0)]
        texts = template.render(chats, ["two turns"] * len(chats))
        good = [text for text in texts if not isinstance(text, BadRow)]
        return (good[0] if good else _sound(texts[0], "two turns")).text

    def _plain(self, text: str) -> Rendered:
        return Rendered(text, (), tuple(self._control.forged_markers(text)))

    def _open(self, ids: list[int]) -> list[int]:
        """Without the EOS that some tokenizers put behind every text."""
        own = not self._chat and len(ids) > 1 and ids[-1] == self._tokenizer.eos_token_id
        return ids[:-1] if own else ids


def _question(text: str) -> Chat:
    return Chat(({"role": "user", "content": text},), first_target=1, unfinished=True)


def _sound(found: _Found | BadRow, place: str) -> _Found:
    if isinstance(found, BadRow):
        raise UsageError(f"{place}: {found}.") from None
    return found
