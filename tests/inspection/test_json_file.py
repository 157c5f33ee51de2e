"""JSON of strangers is an object within limits, or a refusal that names the file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus.errors import UsageError
from nexus.inspection.json_file import read_json


def test_an_object_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a": [1, "ü"]}')
    assert read_json(tmp_path / "a.json") == {"a": [1, "ü"]}


def test_size_is_looked_at_before_content(tmp_path: Path) -> None:
    with (tmp_path / "a.json").open("wb") as file:
        file.truncate(10**12)
    with pytest.raises(UsageError, match=r"a\.json has 1,000,000,000,000 bytes, more than"):
        read_json(tmp_path / "a.json")
    (tmp_path / "a.json").write_text("{}    ")
    with pytest.raises(UsageError, match="more than the 5 "):
        read_json(tmp_path / "a.json", most_bytes=5)


@given(st.binary(max_size=60))
def test_any_bytes_are_an_object_or_a_refusal(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.mktemp("json") / "a.json"
    path.write_bytes(content)
    try:
        values = read_json(path)
    except UsageError as refusal:
        assert str(path) in str(refusal) and "\n" not in str(refusal)
    else:
        assert values == json.loads(content)
