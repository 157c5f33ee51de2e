"""Answers are found where models state them, and nothing else is taken for one."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus.evaluation.tasks.extraction import (
    boxed,
    free_text,
    letter,
    number,
    same_number,
    same_words,
    yes_no,
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("She makes 9 * 2 = 18 dollars.\n#### 18", 18),
        ("#### $1,234.50", Fraction("1234.5")),
        ("The answer is 42.", 42),
        ("The answer is 16 - 7 = 9. So 3 are left of the 12.", 9),
        ("the answer is: **7** apples, of 10", 7),
        ("Answer: $18", 18),
        ("Answer:\n\n12 cookies", 12),
        ("Final answer = -3", -3),
        ("The answer to the second question is 5, not 6", 5),
        ("The answer would be 40%", 40),
        ("so x is \\boxed{\\frac{3}{4}} of 8", Fraction(3, 4)),
        ("\\boxed{1} no, \\boxed{2}", 2),
        ("\\boxed{5} is my answer. The answer is 6", 6),
        ("The answer is 3/4", Fraction(3, 4)),
        ("The answer is 1 3/4 cups", Fraction(7, 4)),
        ("The answer is -$5", -5),
        ("The answer is $-90.", -90),
        ("The answer is −4", -4),
        ("The answer is .5", Fraction(1, 2)),
        ("The answer is 1e3", 1000),
        ("The answer is 2.5E-1", Fraction(1, 4)),
        ("The answer is 10\\,000", 10000),
        ("The answer is $9 500.", 9500),
        ("The answer is 9\u202f500.", 9500),
        ("The answer is €12", 12),
    ],
)
def test_a_stated_number_is_found(text: str, value: Fraction) -> None:
    assert number(text, stated=True) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("8000 - 2400 = 5600", 5600),
        ("She has 16-3=13", 13),
        ("from 10-3 to 5-2", 2),
        ("Answer: We start with 16 eggs. She eats 3, so 13 remain.", 13),
        ("Answer: We start with 16 eggs.\nShe eats 3.\nSo 13 remain.", 13),
        ("I do not know, but not 7", 7),
        ("it costs 1,2 or 3,45", 45),
        ("12,345,678 people", 12345678),
        ("the 2nd of 3.", 3),
    ],
)
def test_otherwise_it_is_the_last_number(text: str, value: int) -> None:
    assert number(text, stated=True) is None
    assert number(text) == value


@pytest.mark.parametrize(
    "text", ["", "no idea", "The answer is unknown.", "The answer is 1/0", "0." + "3" * 5000,
             "The answer is 1e999999999", "\\boxed{7"[:7]]
)  # fmt: skip
def test_what_is_no_number_is_none(text: str) -> None:
    assert number(text) is None


@given(st.fractions(min_value=-(10**6), max_value=10**6, max_denominator=1000))
def test_a_fraction_is_found_as_it_was_written(value: Fraction) -> None:
    assert number(f"The answer is {value}.") == value


@given(st.decimals(min_value=-(10**9), max_value=10**9, places=3))
def test_grouping_currency_and_full_stops_do_not_change_a_value(value: object) -> None:
    for written in (f"{value}", f"{value:,}", f"{value}.", f"{value:,} km"):
        assert number(f"Answer: {written}") == Fraction(str(value))


@given(st.text(max_size=200))
def test_no_text_is_too_strange(text: str) -> None:
    for stated in (False, True):
        number(text, stated=stated)
        yes_no(text, stated=stated)
        free_text(text, stated=stated)
        assert letter(text, "ABC", choices=("a cat", "cat", ""), stated=stated) in {*"ABC", None}


def test_values_are_compared_and_not_how_they_are_written() -> None:
    assert same_number(Fraction("0.50"), Fraction("0.5"))
    assert not same_number(Fraction("5.01"), Fraction(5))
    assert not same_number(Fraction("6.7"), Fraction("6.65"))


def test_a_rounded_value_is_met_by_one_with_more_decimals() -> None:
    assert same_number(Fraction("0.16666666666666666"), Fraction("0.166667"))
    assert not same_number(Fraction("0.1667"), Fraction("0.166667"))
    assert not same_number(Fraction("0.333"), Fraction("0.33")), "two decimals may be all there are"


def test_boxes_hold_braces_and_the_last_closed_one_counts() -> None:
    assert boxed(r"\boxed{1} and \boxed{\frac{1}{2}}") == r"\frac{1}{2}"
    assert boxed(r"\boxed{1} and \boxed{2") == "1"
    assert boxed(r"\fbox{1}") is None


@pytest.mark.parametrize(
    "text",
    [
        "(B)",
        "B",
        "B. because",
        "b) is no capital, but the answer is (b)",
        "The answer is B",
        "The answer is **(B)**.",
        "So the answer is option B.",
        "Answer: B) a dog",
        "The answer is the dog.",
        "A is wrong. The answer is (A)... no, the answer is (B).",
        "\\boxed{B}",
        "\\boxed{\\text{B}}",
        "dog",
        "Only (B) has the right order.",
    ],
)
def test_a_letter_is_found(text: str) -> None:
    assert letter(text, "ABC", choices=("cat", "dog", "hot dog stand")) == "B"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "A dog barks",
        "I think so",
        "The answer is (D).",
        "The answer is (A) or (B).",
        "The answer is A and B",
        "The answer is cat or dog",
        "Either (A) or (B)",
        "Because of this",
        "The answer must be a cat. So the answer is a horse.",
    ],
)
def test_what_names_no_choice_or_several_is_none(text: str) -> None:
    assert letter(text, "ABC", choices=("cat", "dog", "hot dog stand")) is None


def test_the_longest_choice_is_meant_and_one_that_is_there_twice_is_the_first() -> None:
    assert letter("The answer is hot dog stand", "AB", choices=("dog", "hot dog stand")) == "B"
    assert letter("The answer is hotel", "ABC", choices=("house", "hotel", "hotel")) == "B"


def test_a_letter_has_to_be_stated_if_asked() -> None:
    assert letter("(B)", "ABC", stated=True) is None
    assert letter("The answer is (B)", "ABC", stated=True) == "B"


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Yes, they do.", True),
        ("So the answer is No.", False),
        ("not True = False. So the answer is False.", False),
        ("no\nThe answer is yes", True),
        ("We are where we started: yes.", True),
        ("It is known", None),
        ("The answer is maybe", None),
    ],
)
def test_yes_and_no(text: str, answer: bool | None) -> None:
    assert yes_no(text) is answer
    assert yes_no("Yes", stated=True) is None


def test_words_are_those_that_are_stated_or_the_only_line() -> None:
    assert free_text("It follows.\nSo the answer is valid.") == "valid"
    assert free_text(' "ball apple car" ') == "ball apple car"
    assert free_text("first line\nsecond line") is None
    assert free_text("valid", stated=True) is None
    assert free_text("The answer is (A) and (B).") == "(A) and (B)"


def test_words_are_equal_but_for_case_spacing_and_the_full_stop() -> None:
    assert same_words("  Valid.", "valid")
    assert same_words("a  b", "a b")
    assert not same_words("invalid", "valid")
    assert not same_words("] )", "]")
