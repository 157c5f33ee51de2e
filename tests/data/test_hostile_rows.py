"""What strangers write into rows: refused with its place, or kept as the text that it is."""

from __future__ import annotations

import json
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from nexus.data.chat import Encoder, Example
from nexus.data.control import MARK
from nexus.data.faults import Faults
from nexus.data.sources import Jsonl, Row

CORPUS = runpy.run_path(str(Path(__file__).parent.parent / "hostile_strings.py"))
HOSTILE: dict[str, str] = CORPUS["HOSTILE"]
REFUSED: frozenset[str] = CORPUS["REFUSED"]
SPECIAL_TOKENS: tuple[str, ...] = CORPUS["SPECIAL_TOKENS"]

ASSISTANT = {"role": "assistant", "content": "yes"}
FIELDS: dict[str, Callable[[str], dict[str, Any]]] = {
    "text": lambda text: {"text": text},
    "prompt": lambda text: {"prompt": f"a{text}", "completion": "b"},
    "completion": lambda text: {"prompt": "a", "completion": text},
    "question": lambda text: {"question": text, "answer": "b"},
    "rationale": lambda text: {"question": "a", "rationale": f"{text}.", "answer": "b"},
    "answer": lambda text: {"question": "a", "answer": text},
    "user": lambda text: {"messages": [{"role": "user", "content": f"a{text}"}, ASSISTANT]},
    "system": lambda text: {
        "messages": [{"role": "system", "content": f"{text}a"}, {"role": "user", "content": "b"}]
        + [ASSISTANT]
    },
    "assistant": lambda text: {
        "messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": text}]
    },
    "sharegpt": lambda text: {
        "conversations": [{"from": "human", "value": f"a{text}"}, {"from": "gpt", "value": "b"}]
    },
    "instruction": lambda text: {"instruction": f"{text}a", "output": "b"},
}
CHATS = ("user", "system", "assistant", "sharegpt", "instruction")
BLANK = {"unreadable: empty", "unreadable: blank", "unicode: only spaces"}
"""Refused where a text alone would be empty."""

OWN = ("text", "completion", "rationale", "answer", "assistant")
"""What an assistant, or an author, writes: may hold markers that are not special."""


@pytest.fixture(scope="module", params=["special", "markers", "both, with BOS"])
def tokenizer(request: pytest.FixtureRequest, make_tokenizer: Any) -> PreTrainedTokenizerFast:
    """All tokens in use are special; or none is, but the template writes them; or every other."""
    tokens = [token for token in SPECIAL_TOKENS if len(token) > 1]
    match request.param:
        case "special":
            special, markers = tokens, []
        case "markers":
            special, markers = [], tokens
        case _:
            special, markers = tokens[::2], tokens[1::2]
    made: PreTrainedTokenizerFast = make_tokenizer(
        words=[marker for marker in markers if marker not in ("<s>", "<|im_start|>", "<|im_end|>")],
        adds_bos="BOS" in request.param,
    )
    made.add_special_tokens({"additional_special_tokens": special})
    made.chat_template += "{# " + " ".join(markers) + " #}"
    return made


def _examples(tokenizer: PreTrainedTokenizerFast, rows: list[Row]) -> tuple[list[Example], Faults]:
    faults = Faults("skip")
    return list(Encoder(tokenizer).examples(rows, "", faults)), faults


def _control_ids(tokenizer: PreTrainedTokenizerFast, *, special_only: bool) -> list[int]:
    added = tokenizer.added_tokens_decoder
    return [id_ for id_, token in added.items() if token.special or not special_only]


@pytest.mark.parametrize("field", FIELDS)
def test_hostile_strings_are_refused_or_kept_as_text(
    tokenizer: PreTrainedTokenizerFast, field: str
) -> None:
    """The control tokens of the document are those of a harmless one; its text is all there.

    Break: `pattern.sub` in `_marked`, `forged_markers` in `_joined`, or `split_special_tokens`.
    """
    make = FIELDS[field]
    names = list(HOSTILE)
    rows = [Row(make("harmless"), "harmless")]
    rows += [Row(make(text), f"f:{number}") for number, text in enumerate(HOSTILE.values(), 1)]
    (harmless, *examples), faults = _examples(tokenizer, rows)
    ids = _control_ids(tokenizer, special_only=field in OWN)
    expected = harmless.ids[np.isin(harmless.ids, ids)].tolist()
    for example in examples:
        text = HOSTILE[names[int(example.place[2:]) - 1]]
        assert example.ids[np.isin(example.ids, ids)].tolist() == expected, repr(text)
        assert text in tokenizer.decode(example.ids.tolist()), repr(text)
        spelt = any(tokenizer.convert_ids_to_tokens(id_) in text for id_ in ids)
        assert example.escaped == spelt, repr(text)
    assert len(examples) + faults.count == len(HOSTILE) and not harmless.escaped
    refused = {names[int(fault.place[2:]) - 1] for fault in faults.listed}
    marked = {name for name, text in HOSTILE.items() if MARK in text and field in CHATS}
    assert refused <= REFUSED | BLANK | marked
    assert refused >= (REFUSED - BLANK) | marked


def test_places_of_what_is_refused(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    """In a file, every refusal names its line, and every row is an example or a refusal."""
    lines = [json.dumps(FIELDS["completion"](text)) for text in HOSTILE.values()]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines) + "\n")
    faults = Faults("skip")
    rows = Jsonl(path="rows.jsonl").rows(tmp_path, faults)
    places = [example.place for example in Encoder(tokenizer).examples(rows, "", faults)]
    places += [":".join(fault.place.split(":")[:2]) for fault in faults.listed]
    assert sorted(places) == sorted(f"rows.jsonl:{n}" for n in range(1, len(HOSTILE) + 1))


@pytest.mark.parametrize("role", ["user\nobey", "<|im_end|>", "", " ", "a" * 65, "\u202euser"])
def test_roles_are_names(tokenizer: PreTrainedTokenizerFast, role: str) -> None:
    row = Row({"messages": [{"role": role, "content": "a"}, ASSISTANT]}, "f:1")
    examples, faults = _examples(tokenizer, [row])
    assert not examples and "messages[0].role" in faults.listed[0].reason


_parts = st.sampled_from(
    [*SPECIAL_TOKENS[:40], "<", "|", ">", "<|im_", "end|>", "im_end", "a", " "]
)
_text = st.lists(_parts, min_size=1, max_size=5).map(lambda parts: "".join(parts) + "x")


@settings(max_examples=60)
@given(turns=st.lists(st.tuples(_text, _text), min_size=1, max_size=3))
def test_turns_are_counted_as_they_were_taken(
    tokenizer: PreTrainedTokenizerFast, turns: list[tuple[str, str]]
) -> None:
    """However fragments meet at the seams, a conversation of n turns has n beginnings and ends."""
    messages = [
        {"role": role, "content": text}
        for pair in turns
        for role, text in zip(("user", "assistant"), pair, strict=True)
    ]
    (example,), _ = _examples(tokenizer, [Row({"messages": messages}, "f:1")])
    start, end = (tokenizer.convert_tokens_to_ids(f"<|im_{name}|>") for name in ("start", "end"))
    assert (example.ids == start).sum() == (example.ids == end).sum() == len(messages)
    said = "".join(f"{answer}<|im_end|>" for _, answer in turns)
    assert tokenizer.decode(example.ids[example.is_target].tolist()) == said
