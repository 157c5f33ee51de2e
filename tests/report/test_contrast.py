"""Text can be read and colours told apart in both modes, by what style.css says."""

from __future__ import annotations

import re
from importlib.resources import files

import pytest

from nexus.report.checks import SIGNS
from nexus.report.drawing import MARKS
from nexus.report.plots import LINES as LINE_STYLES
from nexus.report.plots import curves

STYLE = files("nexus.report").joinpath("page", "style.css").read_text(encoding="utf-8")

READABLE = 4.5
"""WCAG 2.2, 1.4.3: text."""

SEEN = 3.0
"""WCAG 2.2, 1.4.11: what is drawn and has to be seen."""

TEXT = ("ink", "soft", "accent", "warn", "good")
LINES = ("c0", "c1", "c2", "c3", "c4", "c5")


def modes() -> dict[str, dict[str, str]]:
    """By mode, each custom property with its colour; dark and print change some of light's."""
    light, dark, paper = re.findall(r":root \{(.*?)\}", STYLE, re.DOTALL)
    first = colours(light)
    return {"light": first, "dark": first | colours(dark), "print": first | colours(paper)}


def colours(rules: str) -> dict[str, str]:
    return dict(re.findall(r"--([\w-]+): (#[0-9a-f]+);", rules))


def luminance(colour: str) -> float:
    digits = colour.removeprefix("#")
    digits = digits if len(digits) == 6 else "".join(2 * digit for digit in digits)
    shares = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    linear = [s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    """(L1 + 0.05) / (L2 + 0.05), the lighter above: WCAG 2.2."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_the_formula() -> None:
    assert contrast("#000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#fff") == pytest.approx(4.48, abs=0.005)


@pytest.mark.parametrize("mode", ["light", "dark", "print"])
@pytest.mark.parametrize("ground", ["page", "card", "accent-soft", "warn-soft"])
def test_text_can_be_read(mode: str, ground: str) -> None:
    known = modes()[mode]
    ratios = {name: round(contrast(known[name], known[ground]), 2) for name in TEXT}
    assert {name: ratio for name, ratio in ratios.items() if ratio < READABLE} == {}


@pytest.mark.parametrize("mode", ["light", "dark", "print"])
def test_lines_and_marks_can_be_seen(mode: str) -> None:
    known = modes()[mode]
    ratios = {name: round(contrast(known[name], known["card"]), 2) for name in LINES}
    assert {name: ratio for name, ratio in ratios.items() if ratio < SEEN} == {}


def test_no_colour_of_text_escapes_the_check() -> None:
    said = set(re.findall(r"(?<![\w-])color: ([^;]+);", STYLE))
    assert said <= {f"var(--{name})" for name in TEXT}
    assert "opacity" not in re.sub(r"\.bar b \{.*?\}", "", STYLE)


def test_marks_and_lines_differ_in_more_than_colour() -> None:
    looks = {(mark.shape, mark.hollow) for mark in MARKS.values()}
    assert len(looks) == len(MARKS)
    assert len(set(map(str, LINE_STYLES))) == len(LINE_STYLES) >= 4
    signs = [sign for sign, _ in SIGNS.values()]
    assert len(set(signs)) == len(signs)


def test_curves_of_one_plot_have_styles_of_their_own() -> None:
    terms = {"output": 1.0, "task": 2.0, "hidden": 3.0}
    steps = [{"stage": "s", "step": step, "loss": 1.0, "terms": terms} for step in (1, 2, 3)]
    drawn = curves(steps, None)[0].svg
    bold = re.findall(r'<path [^>]*style="([^"]*stroke-width: 1\.[0-9]+[^"]*)"', drawn)
    dashes = {re.search(r"stroke-dasharray: ([^;]*)", style) for style in bold}
    assert len({found[1] if found else "" for found in dashes}) >= 4
