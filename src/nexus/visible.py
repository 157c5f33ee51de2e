"""Foreign text as it may be shown: nothing in it hides, and nothing steers a terminal."""

from __future__ import annotations

import unicodedata

_MARKED = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""Categories that show nothing themselves: controls, directions, halves, line separators."""

_BLANKS = "\u034f\u115f\u1160\u2800\u3164\uffa0"
"""Characters that count as letters or symbols and show nothing."""

_LAYOUT = "\n\t"


def visible(text: str) -> str:
    """The text with every character that hides or steers written out, such as ⟨U+202E⟩.

    Control characters but for line feed and tab, marks of direction, characters without width,
    halves of characters, noncharacters and blanks that pass for letters.
    """
    return text if text.isascii() and text.isprintable() else text.translate(_TABLE)


def one_line(text: str) -> str:
    """As `visible`, and on one line."""
    return visible(text).replace("\n", "⟨U+000A⟩").replace("\t", "⟨U+0009⟩")


class _Table(dict[int, int | str]):
    """What stands for each character, found when it is first asked for."""

    def __missing__(self, code: int) -> int | str:
        self[code] = f"⟨U+{code:04X}⟩" if _hides(code) else code
        return self[code]


_TABLE = _Table()


def _hides(code: int) -> bool:
    character = chr(code)
    return character not in _LAYOUT and (
        unicodedata.category(character) in _MARKED
        or character in _BLANKS
        or 0xE0100 <= code <= 0xE01EF  # variation selectors beyond those of emoji
        or 0xFDD0 <= code <= 0xFDEF
        or code & 0xFFFE == 0xFFFE
    )
