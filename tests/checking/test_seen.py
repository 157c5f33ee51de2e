"""What is counted and shown of documents is what is in them, and cannot do harm."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path
from unicodedata import category

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from nexus.checking.seen import SHOWN_ROWS, SHOWN_TOKENS, look, pieces
from nexus.scene import Scene

ROOT = Path(__file__).parents[1]
TOKENIZER = runpy.run_path(str(ROOT.parent / "examples" / "tiny.py"))["make_tokenizer"]()
HOSTILE = runpy.run_path(str(ROOT / "hostile_strings.py"))["HOSTILE"]
UNSEEN = {"Cc", "Cf", "Cs"}
"""The Unicode categories of what controls, formats and is half a letter."""

SECRET = "hf_" + "a1B2c3D4e5F6g7H8i9J0" * 2


def ids_of(text: str) -> torch.Tensor:
    return torch.tensor(TOKENIZER(text, add_special_tokens=False).input_ids, dtype=torch.long)


@given(arrays(bool, st.integers(1, 40)))
def test_marks_are_those_of_the_tokens(marks: object) -> None:
    """Each letter is a token: every letter shown has its own token's mark, and none is lost."""
    is_target = torch.as_tensor(marks)
    text = ("abcdefghij" * 4)[: len(is_target)]
    shown = pieces(ids_of(text), is_target, TOKENIZER)
    assert "".join(part for part, _ in shown) == text
    assert [flag for part, flag in shown for _ in part] == is_target.tolist()


@pytest.mark.parametrize("name", [name for name, text in HOSTILE.items() if text.strip()])
def test_nothing_that_is_shown_hides_or_steers(name: str) -> None:
    ids = ids_of(HOSTILE[name].encode("utf-8", "replace").decode())
    for text, _ in pieces(ids, torch.ones(len(ids), dtype=torch.bool), TOKENIZER):
        assert not {category(letter) for letter in text if letter not in "\n\t"} & UNSEEN


@given(st.integers(1, len(SECRET) - 1))
def test_a_secret_is_not_shown_in_halves(cut: int) -> None:
    ids = ids_of(f"token {SECRET} end")
    is_target = torch.arange(len(ids)) < cut + len("token ")
    ((text, marked),) = pieces(ids, is_target, TOKENIZER)
    assert "redacted" in text and SECRET[:12] not in text and SECRET[-12:] not in text and marked


def test_documents_are_counted_by_hand(scene_of: Callable[..., Scene]) -> None:
    """A byte a token: of a prompt nothing is a target, of a completion all, and its end."""
    rows = [{"prompt": "ab", "completion": "x" * length} for length in (1, 3, 5)]
    rows.append(dict(rows[0]))
    seen = look(scene_of("train.tokens_per_step=512", train=rows * 2), 4)
    completions = [1, 3, 5, 1] * 2
    assert seen.documents == 8 and sum(seen.tasks.values()) == 8
    assert seen.targets == sum(completions) + 8 == seen.tokens - 2 * 8
    assert sorted(seen.lengths) == sorted(2 + length + 1 for length in completions)
    assert seen.ended == 8 and seen.repeated == 8 - 3 and seen.empty_rows == 0


def test_only_the_beginnings_of_a_few_are_shown(scene_of: Callable[..., Scene]) -> None:
    seen = look(scene_of(train=[{"text": letter * 120} for letter in "abcdefgh"]), 512)
    assert seen.rows == 8 and len(seen.first) == SHOWN_ROWS
    for shown in seen.first:
        assert sum(len(text) for text, _ in shown[:-1]) == SHOWN_TOKENS and shown[-1][0] == " …"
        assert not shown[0][1] and len(shown[0][0]) == 1  # nothing predicts the first token
