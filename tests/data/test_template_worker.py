from __future__ import annotations

import json
import tempfile
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nexus.data.template_worker import receive, send

_json = st.recursive(
    st.text() | st.integers() | st.booleans(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


@settings(max_examples=20)
@given(values=st.lists(st.lists(_json, min_size=1), max_size=4))
def test_what_is_sent_is_received(values: list[Any]) -> None:
    with tempfile.TemporaryFile() as pipe:
        sizes = [send(pipe, value) for value in values]
        assert sizes == [len(json.dumps(value)) for value in values]
        pipe.seek(0)
        assert [receive(pipe) for _ in values] == values
        assert receive(pipe) is None


def test_half_a_value_is_none() -> None:
    with tempfile.TemporaryFile() as pipe:
        send(pipe, ["whole"])
        pipe.truncate(pipe.tell() - 1)
        pipe.seek(0)
        assert receive(pipe) is None


def test_more_than_is_wanted_is_not_even_read() -> None:
    with tempfile.TemporaryFile() as pipe:
        pipe.write((2**50).to_bytes(8, "big"))
        pipe.seek(0)
        with pytest.raises(ValueError, match="bytes"):
            receive(pipe, most=2**20)
