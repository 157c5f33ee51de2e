"""Conversations are noticed wherever they are among the first rows of any source."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nexus.data.chats import has_chats
from nexus.data.sources import Jsonl

CHAT = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
TEXT = {"text": "a"}


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([TEXT], False),
        ([CHAT], True),
        ([TEXT, CHAT], True),
        ([{"messages": 7}], False),
        ([7], False),
    ],
)
def test_conversations_are_noticed(tmp_path: Path, rows: list[Any], expected: bool) -> None:
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "text.jsonl").write_text(json.dumps(TEXT) + "\n")
    sources = [Jsonl(path="text.jsonl"), Jsonl(path="rows.jsonl")]
    assert has_chats(sources, tmp_path) is expected
