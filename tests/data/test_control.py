from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken

from nexus.data.control import MARK, ROLES, ControlTokens, any_of
from nexus.data.faults import BadRow

HOSTILE: dict[str, str] = runpy.run_path(str(Path(__file__).parent.parent / "hostile_strings.py"))[
    "HOSTILE"
]


@pytest.fixture(scope="module")
def control(make_tokenizer: Any) -> ControlTokens:
    template = "{# <think> #}"
    return ControlTokens(make_tokenizer(template, words=["<think>", "<b>", "   ", "<|fim|>"]))


def test_what_steers_and_what_only_saves_room(control: ControlTokens) -> None:
    for token in ("<s>", "<|im_start|>", "<|im_end|>", "<think>", "<|fim|>"):
        assert control.all.fullmatch(token), token
    for token in ("<b>", "   "):
        assert not control.all.fullmatch(token), token
    assert control.special.fullmatch("<s>") and not control.special.fullmatch("<think>")
    assert control.forged_markers("a<think>b<|fim|><s>") == [(1, 8), (9, 16)]
    assert len(control.ids) == 5 and len(control.special_ids) == 3


def test_the_token_for_the_unknown_steers_nothing(make_tokenizer: Any) -> None:
    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens({"unk_token": AddedToken("<unk>", special=True)})
    control = ControlTokens(tokenizer)
    assert tokenizer.unk_token_id not in control.ids
    assert control.special.fullmatch("<unk>")


def _unmarked(text: str) -> tuple[str, list[int]]:
    marks = [at - n for n, at in enumerate(i for i, c in enumerate(text) if c == MARK)]
    return text.replace(MARK, ""), sorted(set(marks))


def _message(control: ControlTokens, text: str, role: str = "user") -> str:
    return str(control.shielded_message({"role": role, "content": text})["content"])


_fragments = st.sampled_from(
    ["<", "|", ">", "<|", "|>", "im_", "im_end", "<|im_", "end|>", "<|im_end|>", "<s>", "s", "a"]
    + ["<think>", "<th", "ink>", " ", "\n"]
)


_words = st.lists(_fragments, max_size=3).map("".join)


@st.composite
def _seams(draw: st.DrawFn) -> tuple[str, str, str]:
    """A text and what stands before and behind it, with a token over one of the seams, or both."""
    before, inside, after = draw(_words), draw(_words), draw(_words)
    token = draw(st.sampled_from(["<|im_end|>", "<|im_start|>", "<s>", "<think>"]))
    first, second = sorted(draw(st.integers(0, len(token))) for _ in range(2))
    match draw(st.sampled_from(["left", "right", "both", "none"])):
        case "left":
            return before + token[:first], token[first:] + inside, after
        case "right":
            return before, inside + token[:first], token[first:] + after
        case "both":
            return before + token[:first], token[first:second], token[second:] + after
    return before, inside, after


@settings(max_examples=300)
@given(seams=_seams())
def test_every_token_that_a_row_has_a_part_in_is_found_and_no_other(
    control: ControlTokens, seams: tuple[str, str, str]
) -> None:
    """What a template writes around a text, whatever it is, cannot make a control token of it.

    Break the line of `_marked` that looks at one of the ends of a text, or at its middle.
    """
    before, inside, after = seams
    text, marks = _unmarked(before + _message(control, inside) + after)
    assert text == before + inside + after
    forged = set(control.forged(text, marks))
    start, stop = len(before), len(before) + len(inside)
    for match in control.all.finditer(text):
        touches = inside and match.start() < stop and match.end() > start
        assert (match.span() in forged) == bool(touches)


@pytest.mark.parametrize("role", sorted(ROLES))
def test_roles_may_stand_where_a_template_puts_them(make_tokenizer: Any, role: str) -> None:
    control = ControlTokens(make_tokenizer(words=[f"<|{role}|>", "<|end|>"]))
    assert control.shielded_message({"role": role, "content": "x"})["role"] == role
    forged = control.shielded_message({"role": "end", "content": "x"})["role"]
    text, marks = _unmarked(f"<|{forged}|>")
    assert control.forged(text, marks) == [(0, 7)]


def test_an_assistant_writes_markers_itself(control: ControlTokens) -> None:
    assert _message(control, "<think>hm", role="assistant") == "<think>hm"
    assert _message(control, "a<think>hm", role="user") == f"a<{MARK}think>hm"
    assert MARK in _message(control, "a<s>b", role="assistant")


def test_keys_and_values_of_tools_are_text_too(control: ControlTokens) -> None:
    shielded = control.shielded({"a<s>": ["b<s>", {"c": 7, "d": None}], "type": "im"})
    assert shielded == {f"a<{MARK}s>": [f"b<{MARK}s>", {"c": 7, "d": None}], "type": "im"}


def test_the_mark_itself_is_refused(control: ControlTokens) -> None:
    with pytest.raises(BadRow, match=r"U\+FDD0"):
        _message(control, f"a{MARK}")


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text_is_marked_only_where_it_spells_something(
    control: ControlTokens, name: str
) -> None:
    text = HOSTILE[name]
    if MARK in text:
        return
    marked = _message(control, text)
    assert _unmarked(marked)[0] == text
    assert not control.all.search(marked)


def test_nothing_matches_when_there_is_nothing() -> None:
    assert not any_of([]).search("anything")
    assert any_of(["a", "ab"]).fullmatch("ab")
