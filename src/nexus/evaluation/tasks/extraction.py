"""What a model answered: numbers, letters, yes or no, or words, found in the text that it wrote.

An answer is looked for where models state one: `\\boxed{42}`, `#### 42`, "the answer is 42". Where
several are stated, the last one counts. Where none is, the text's own end or beginning may do, as
each function says; with `stated=True` it may not. None means that nothing of the asked form was
found: a failure of format, to be counted apart from a wrong answer.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterator, Sequence
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from operator import itemgetter
from typing import NamedTuple

LONGEST_NUMBER = 64
"""Characters. A model that repeats one digit for ever has not named a number."""

_LARGEST_POWER = 400
"""`1e999999999` is a few characters, and more digits than memory holds."""

_ROUNDED_DECIMALS, _MOST_DECIMALS = 4, 20

_VERB = r"(?:is|are|was|were|equals|(?:would|should|will|must|could|can only) be)\b"
_STATED = re.compile(
    r"\banswers?\b(?:\s+(?:to|for)\b[^.:\n]{1,80}?)?[*_\s]*"
    rf"(?:(?P<mark>[:=])|{_VERB})[*_:\s]*|#{{4}}[*_:\s]*",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")
_SEVERAL = re.compile(
    r"[(\[]?[A-Z][)\]]?\s*(?:,|/|&|\band\b|\bor\b)\s*[(\[]?[A-Z](?:[)\]]|\b(?!\s\w))"
)
_STYLE = re.compile(r"\\(?:text|textbf|mathrm|mathbf)\s*\{([^{}]*)\}")
_BOXED = re.compile(r"\\f?boxed\s*\{")

_GROUPS = r"\d{1,3}(?:,\d{3})+(?!\d)"
_UNSIGNED = rf"(?:(?:{_GROUPS}|\d+)(?:\.\d+)?|\.\d+)(?:[eE][+-]?\d+(?![\d.]))?"
_MINUS = r"(?<![\w)\]])[-\u2212\u2013]\s?"
_CURRENCY = r"\\?[$\u20ac\u00a3\u00a5\u20b9]\s?"
_NUMBER = re.compile(
    rf"(?P<sign>{_MINUS}(?:{_CURRENCY})?(?=[\d.])|(?:{_CURRENCY}){_MINUS}(?=[\d.]))?"
    rf"(?:(?P<whole>\d+)\s(?=\d+/\d))?(?P<value>{_UNSIGNED})"
    r"(?:\s?/\s?(?P<under>\d+)(?![\d/.]\d))?"
)
_SPACED = re.compile(
    rf"{_CURRENCY}\d{{1,3}}(?: \d{{3}})+(?!\d)|\d{{1,3}}(?:[\u00a0\u2009\u202f]\d{{3}})+(?!\d)"
)
_FRACTION = re.compile(r"\\[dt]?frac\s*\{\s*([^{}]+?)\s*\}\s*\{\s*([^{}]+?)\s*\}")

_YES = {"yes": True, "true": True, "no": False, "false": False}
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_WRAPPED = "*_`\"'\u201c\u201d\u2018\u2019 \t"


def boxed(text: str) -> str | None:
    r"""What stands in the last `\boxed{}`, braces within it included; None if there is none."""
    found = list(_boxes(text))
    return found[-1][1] if found else None


def number(text: str, *, stated: bool = False) -> Fraction | None:
    """The number that a text answers with, as an exact value: 0.50, 1/2 and 5e-1 are one answer.

    Signs of currency and per cent, separators of thousands, and full stops are no part of it. Of a
    calculation ("the answer is 16 - 7 = 9") it is the result.

    Args:
        stated: Only if the text states an answer; else the last number of the text will do.
    """
    for statement in _statements(text):
        sentence = _plain(statement.sentence)
        found = _NUMBER.search(sentence.rpartition("=")[2]) or _NUMBER.search(sentence)
        if found and (statement.settled or sentence[: found.start()].strip(_WRAPPED) == ""):
            return _value(found)
    if stated:
        return None
    every = list(_NUMBER.finditer(_plain(text)))
    return _value(every[-1]) if every else None


def letter(
    text: str, letters: str, *, choices: Sequence[str] = (), stated: bool = False
) -> str | None:
    """The letter of the choice that a text answers with.

    Args:
        letters: Those that are legal, such as `ABCD`: any other is no answer.
        choices: The text of each choice, which may stand for its letter.
        stated: Only if the text states an answer; else the text may also begin with the letter, be
            a choice, or name one letter in brackets.
    """
    for place, statement in enumerate(_statements(text)):
        if _SEVERAL.match(statement.sentence):
            return None
        found = _leading(statement.sentence, letters)
        if not found and statement.settled and place == 0:
            found = _chosen(statement.sentence, letters, choices)
        if found:
            return found
    if stated:
        return None
    found = _leading(text.strip(), letters) or _chosen(text, letters, choices, whole=True)
    if found:
        return found
    named = set(re.findall(r"\(([A-Z])\)", text)) & set(letters)
    return named.pop() if len(named) == 1 else None


def yes_no(text: str, *, stated: bool = False) -> bool | None:
    """Whether a text answers yes (or true) or no (or false).

    Args:
        stated: Only if the text states an answer; else its first or its last word will do.
    """
    for statement in _statements(text):
        said = _words(statement.sentence)
        if said and said[0] in _YES:
            return _YES[said[0]]
    said = _words(text)
    if stated or not said:
        return None
    return _YES.get(said[0], _YES.get(said[-1]))


def free_text(text: str, *, stated: bool = False) -> str | None:
    """The words that a text answers with, up to the end of their line, without a last full stop.

    Args:
        stated: Only if the text states an answer; else a text of a single line is an answer.
    """
    for statement in _statements(text):
        if found := _trimmed(statement.line):
            return found
    lines = text.strip().splitlines()
    return None if stated or len(lines) != 1 else _trimmed(lines[0]) or None


def same_number(answer: Fraction, gold: Fraction) -> bool:
    """Whether an answer has the right value.

    A right value with four decimals or more is one that was rounded (0.1667): an answer that gives
    more of them (1/6) has to round to it.
    """
    if answer == gold:
        return True
    decimals = next((n for n in range(_MOST_DECIMALS) if (gold * 10**n).denominator == 1), 0)
    return decimals >= _ROUNDED_DECIMALS and abs(answer - gold) * 2 <= Fraction(1, 10**decimals)


def same_words(one: str, other: str) -> bool:
    """Whether two answers are equal but for case, spacing, quotes and a last full stop."""
    return _trimmed(one).casefold().split() == _trimmed(other).casefold().split()


class _Statement(NamedTuple):
    """What follows the place at which an answer is stated, as far as it goes."""

    line: str
    sentence: str
    settled: bool
    """Whether it is the answer, not the beginning of the way to one ("Answer: We have 3 …")."""


def _statements(text: str) -> Iterator[_Statement]:
    """The places at which an answer is stated, the last first."""
    marks = list(_STATED.finditer(text))
    stops = [*(mark.start() for mark in marks), len(text)][1:]
    found = [(start, _Statement(content, content, True)) for start, content in _boxes(text)]
    for mark, stop in zip(marks, stops, strict=True):
        rest = text[mark.end() : stop].strip()
        line = boxed(rest) or rest.split("\n", 1)[0]
        sentence = _SENTENCE_END.split(line, maxsplit=1)[0]
        found.append((mark.end(), _Statement(line, sentence, not mark["mark"] or sentence == rest)))
    for _, statement in sorted(found, key=itemgetter(0), reverse=True):
        yield statement


def _boxes(text: str) -> Iterator[tuple[int, str]]:
    for match in _BOXED.finditer(text):
        depth = 1
        for at in range(match.end(), len(text)):
            depth += {"{": 1, "}": -1}.get(text[at], 0)
            if not depth:
                yield match.end(), _STYLE.sub(r"\1", text[match.end() : at])
                break


def _plain(text: str) -> str:
    """LaTeX's ways of writing numbers turned into plain ones."""
    text = _FRACTION.sub(r" \1/\2 ", text)
    for written, plain in ((r"\!", ""), (r"\,", ""), ("{,}", ",")):
        text = text.replace(written, plain)
    return _SPACED.sub(lambda match: re.sub(r"\s", "", match[0]), text)


def _value(match: re.Match[str]) -> Fraction | None:
    if len(match[0]) > LONGEST_NUMBER:
        return None
    try:
        decimal = Decimal(match["value"].replace(",", ""))
    except InvalidOperation:
        return None
    if decimal and not -_LARGEST_POWER < decimal.adjusted() < _LARGEST_POWER:
        return None
    value = Fraction(decimal)
    if match["under"]:
        if not int(match["under"]):
            return None
        value /= int(match["under"])
    value += int(match["whole"] or 0)
    return -value if match["sign"] else value


def _leading(text: str, letters: str) -> str | None:
    """The letter with which a text begins, if it is one that names a choice."""
    begun = re.match(
        r"[*_`\"'\s]*(?:(?:the\s+)?(?:option|choice|letter)\s+)?"
        r"(?:[(\[]\s*(?P<bracketed>[A-Za-z])\s*[)\]]|(?P<bare>[A-Z])(?![\w'\u2019]))(?P<after>.{0,12})",
        text,
        re.IGNORECASE if re.match(r"\W*[(\[]", text) else 0,
    )
    if not begun:
        return None
    found = (begun["bracketed"] or begun["bare"]).upper()
    # "A dog" and "I think" begin with words.
    word = begun["bare"] in ("A", "I") and re.match(r"\s+(?!because|since|as\b)\w", begun["after"])
    return found if found in letters and not word else None


def _chosen(text: str, letters: str, choices: Sequence[str], *, whole: bool = False) -> str | None:
    """The letter of the one choice that a text is or, unless that is asked, that it names."""
    said = _normal(text)
    normal = [_normal(choice) for choice in choices]
    same = [index for index, choice in enumerate(normal) if choice and choice == said]
    if not same and not whole:
        named = [index for index, one in enumerate(normal) if one and f" {one} " in f" {said} "]
        # "not at home" names "home" too: of choices within one another the longest is meant.
        same = [
            index
            for index in named
            if not any(index != other and normal[index] in normal[other] for other in named)
        ]
    # The same choice may be there twice.
    return letters[same[0]] if len({normal[index] for index in same}) == 1 else None


def _normal(text: str) -> str:
    plain = "".join(" " if c in string.punctuation else c for c in text.casefold())
    return " ".join(_ARTICLES.sub(" ", plain).split())


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z]+", text.casefold())


def _trimmed(text: str) -> str:
    return text.strip(_WRAPPED).removesuffix(".").strip(_WRAPPED)
