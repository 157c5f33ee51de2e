"""Foreign text shows everything that is in it, and steers nothing."""

from __future__ import annotations

import runpy
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus.visible import one_line, visible

HOSTILE = runpy.run_path(str(Path(__file__).with_name("hostile_strings.py")))["HOSTILE"]


@pytest.mark.parametrize("name", HOSTILE)
def test_no_hostile_string_steers_or_hides(name: str) -> None:
    shown = visible(HOSTILE[name])
    assert not [
        c for c in shown if unicodedata.category(c) in ("Cc", "Cf", "Cs") and c not in "\n\t"
    ]
    shown.encode("utf-8")
    assert one_line(HOSTILE[name]).count("\n") == 0


@given(st.text(st.characters(categories=["L", "N", "P", "S", "Zs", "Mn"]), max_size=40))
def test_ordinary_text_is_left_alone(text: str) -> None:
    """Accents, scripts, emoji, punctuation; but for the few blanks that pass as letters."""
    kept = visible(text)
    assert kept == text or "⟨U+" in kept


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\nb\tc ", "a\nb\tc "),
        ("Straße, 日本語, 🙂\ufe0f", "Straße, 日本語, 🙂\ufe0f"),
        ("abc\u202etxt.exe", "abc⟨U+202E⟩txt.exe"),
        ("\x1b[31m\x9b\x00", "⟨U+001B⟩[31m⟨U+009B⟩⟨U+0000⟩"),
        ("a\rb\x7f", "a⟨U+000D⟩b⟨U+007F⟩"),
        ("\u200b\u3164\U000e0041\ud800", "⟨U+200B⟩⟨U+3164⟩⟨U+E0041⟩⟨U+D800⟩"),
    ],
)
def test_each_character_is_written_out(text: str, shown: str) -> None:
    assert visible(text) == shown
    assert visible(shown) == shown
