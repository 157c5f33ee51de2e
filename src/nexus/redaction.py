"""Secrets out of whatever this program writes: files of a run, messages, tracebacks, dashboards.

A secret is the value of an environment variable with a telling name, or text of a well-known shape.
"""

from __future__ import annotations

import html
import json
import os
import re
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from types import TracebackType
from typing import Any, TextIO, cast
from urllib.parse import quote

from nexus.visible import visible

_NAME = re.compile(
    r"TOKEN(?!IZ)|KEY(?!BOARD|MAP|RING)|SECRET|PASSW(OR)?D|PASSPHRASE|CREDENTIAL", re.IGNORECASE
)

FEWEST_CHARACTERS = 8
"""Shorter values (`true`, `1`) are no secrets worth the name, and stand in every text."""

_SHAPES = {
    "private key": r"-----BEGIN [A-Z ]*PRIVATE KEY-----"
    r"(?s:.*?)(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)",
    "Hugging Face token": r"\b(?:hf|api_org)_[A-Za-z0-9]{20,}",
    "GitHub token": r"\b(?:gh[opsur]_[A-Za-z0-9]{30,}|github_pat_\w{22,})",
    "GitLab token": r"\bglpat-[\w-]{20,}",
    "API key": r"(?<![\w-])sk-(?=[\w-]*\d)[\w-]{20,}",
    "AWS key": r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
    "Google key": r"\bAIza[\w-]{35}",
    "Slack token": r"\bxox[abeoprs]-[\w-]{10,}",
    "npm or PyPI token": r"\b(?:npm_[A-Za-z0-9]{36}|pypi-[\w-]{50,})",
    "web token": r"\beyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]+",
    "bearer token": r"(?i:(?<=bearer )|(?<=authorization: basic ))[\w.~+/=-]{16,}",
    "password": r"(?<=://)[^/\s:@\"'<>]*:[^/\s@\"'<>]+(?=@)",
    "parameter": r"(?i:(?<=[?&;])(?:access_token|api_?key|auth|key|passwo?r?d|secret|sig(?:nature)?"
    r"|token|x-amz-[a-z-]+)=)[^&;\s\"'<>]+",
    "netrc entry": r"\bmachine\s+\S+\s+login\s+\S+\s+password\s+\S+",
}


def redacted(text: str) -> str:
    """The text with ‹redacted NAME› in the place of every secret."""
    known, names = _known(tuple(_secrets(os.environ)))
    if known is not None:
        text = known.sub(lambda match: f"‹redacted {names[match[0]]}›", text)
    return _shaped().sub(lambda match: f"‹redacted {_kind(match)}›", text)


def redacted_values(values: Any) -> Any:
    """The same mapping, list or text with every text in it redacted."""
    match values:
        case str():
            return redacted(values)
        case Mapping():
            return {redacted_values(name): redacted_values(value) for name, value in values.items()}
        case list() | tuple():
            return [redacted_values(value) for value in values]
    return values


def secret_in(values: Any, path: str = "") -> tuple[str, str] | None:
    """Where the first secret of a recipe's values stands, and what it is; nothing if there is none.

    Returns:
        The dotted key, and the name of the environment variable or of the kind of secret.
    """
    match values:
        case str():
            found = _first(values)
            return (path, found) if found else None
        case Mapping():
            items = [(f"{path}.{key}" if path else str(key), item) for key, item in values.items()]
        case list() | tuple():
            items = [(f"{path}[{index}]", item) for index, item in enumerate(values)]
        case _:
            return None
    return next(filter(None, (secret_in(item, key) for key, item in items)), None)


@contextmanager
def guarded() -> Iterator[None]:
    """Inside, whatever anything prints is redacted; and so is the traceback of a failure."""
    out, err, hook = sys.stdout, sys.stderr, sys.excepthook
    if hook is sys.__excepthook__:
        sys.excepthook = _print_traceback
    sys.stdout, sys.stderr = cast(TextIO, _Redacting(out)), cast(TextIO, _Redacting(err))
    try:
        yield
    finally:
        sys.stdout, sys.stderr = out, err


class _Redacting:
    """A text stream that writes no secrets."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(redacted(text))
        return len(text)

    def writelines(self, lines: list[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _print_traceback(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    sys.stderr.write(visible(redacted("".join(traceback.format_exception(kind, error, trace)))))


def _secrets(environment: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for name, value in environment.items():
        plain = value.strip()
        is_place = os.path.isabs(plain) and os.path.exists(plain)
        if _NAME.search(name) and len(plain) >= FEWEST_CHARACTERS and not is_place:
            yield name, plain


@lru_cache(maxsize=8)
def _known(secrets: tuple[tuple[str, str], ...]) -> tuple[re.Pattern[str] | None, dict[str, str]]:
    """One pattern of all secrets in every way they are written, and whose each of them is."""
    names: dict[str, str] = {}
    for name, secret in secrets:
        for spelling in _spellings(secret):
            names.setdefault(spelling, name)
    longest_first = sorted(names, key=len, reverse=True)
    pattern = re.compile("|".join(map(re.escape, longest_first))) if names else None
    return pattern, names


def _spellings(secret: str) -> Iterator[str]:
    """As it is, as JSON, Python, HTML and addresses write it, and each of several lines."""
    yield secret
    yield json.dumps(secret)[1:-1]
    yield json.dumps(secret, ensure_ascii=False)[1:-1]
    yield repr(secret)[1:-1]
    yield html.escape(secret)
    yield quote(secret)
    yield quote(secret, safe="")
    lines = secret.splitlines()
    if len(lines) > 1:
        yield from (line for line in lines if len(line) >= 2 * FEWEST_CHARACTERS)


@lru_cache(maxsize=1)
def _shaped() -> re.Pattern[str]:
    return re.compile("|".join(f"(?P<k{n}>{shape})" for n, shape in enumerate(_SHAPES.values())))


def _kind(match: re.Match[str]) -> str:
    return list(_SHAPES)[int(str(match.lastgroup)[1:])]


def _first(text: str) -> str | None:
    known, names = _known(tuple(_secrets(os.environ)))
    if known is not None and (match := known.search(text)):
        return names[match[0]]
    shaped = _shaped().search(text)
    return f"a {_kind(shaped)}" if shaped else None
