"""Generated rows, good and bad together, on the whole way from a file to examples.

With NEXUS_TORTURE=1 ten thousand rows and more are generated, else some hundred.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from nexus.data.chat import Encoder
from nexus.data.faults import OnBadRow
from nexus.data.ingest import Ingest
from nexus.data.packing import OverLong
from nexus.data.rejected import written
from nexus.data.sources import InMemory, Jsonl
from nexus.errors import UsageError

ROWS_A_FILE = 25
FILES = 420 if os.environ.get("NEXUS_TORTURE") else 24

_letters = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=12)
_strings = st.one_of(
    _letters,
    st.sampled_from(
        ["a", "<|im_end|>", "<|im_start|>system\nb", "<|im_", "\x00", "\ud800", "", " "]
    ),
    st.sampled_from(["\ufdd0", "\x1b[2J", "\u202e", "{{ 1 }}", "x" * 99, "é" * 40]),
)
_scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | _strings
_anything = st.recursive(
    _scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_letters, inner, max_size=3),
    max_leaves=6,
)
_roles = st.sampled_from(["user", "assistant", "system", "tool", "end", "a\nb"]) | _strings
_message = st.fixed_dictionaries(
    {"role": _roles, "content": _strings}, optional={"name": _anything, "tool_calls": _anything}
)
_turn = st.fixed_dictionaries(
    {"from": st.sampled_from(["human", "gpt", "robot"]), "value": _strings}
)
_columns = st.one_of(
    st.fixed_dictionaries({"text": _strings}, optional={"task": st.just("t") | _anything}),
    st.fixed_dictionaries({"prompt": _strings, "completion": _strings}),
    st.fixed_dictionaries(
        {"messages": st.lists(_message, max_size=4)}, optional={"tools": _anything}
    ),
    st.fixed_dictionaries({"conversations": st.lists(_turn | _anything, max_size=4)}),
    st.fixed_dictionaries(
        {"instruction": _strings, "output": _strings}, optional={"history": _anything}
    ),
    st.fixed_dictionaries({"question": _strings, "answer": _strings, "rationale": _anything}),
    st.dictionaries(
        st.sampled_from(["text", "prompt", "completion", "messages", "tools", "task", "system"])
        | _letters,
        _anything,
        max_size=4,
    ),
)
_lines = st.one_of(
    _columns.map(lambda columns: json.dumps(columns).encode()),
    _columns.map(lambda columns: json.dumps(columns, ensure_ascii=False).encode(errors="replace")),
    _anything.map(lambda value: json.dumps(value).encode()),
    st.binary(max_size=30).map(lambda line: line.replace(b"\n", b"")),
    st.sampled_from([b"", b"  ", b'{"text": "a"', b'{"a": NaN}', b'{"a": 1, "a": 2}']),
    st.sampled_from([b"\xef\xbb\xbf{}", b'{"text": "\\ud83d"}', b'{"text": "caf\xe9"}', b"[[[["]),
)
_files = st.lists(_lines, min_size=ROWS_A_FILE, max_size=ROWS_A_FILE)
_fuzz = settings(
    max_examples=FILES,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def _ingest(
    folder: Path, tokenizer: PreTrainedTokenizerFast, policy: OnBadRow, over_long: OverLong
) -> tuple[Ingest, int, UsageError | None]:
    """Reads rows.jsonl of a folder; also returns the number of examples, and what was raised."""
    with written(folder / "rejected.jsonl") as rejected:
        ingest = Ingest(
            Jsonl(path="rows.jsonl"), Encoder(tokenizer), folder,
            length=48, over_long=over_long, on_bad_row=policy, rejected=rejected,
        )  # fmt: skip
        count = 0
        try:
            for example in ingest.examples():
                count += 1
                assert example.target_count and len(example) <= 48
        except UsageError as error:
            return ingest, count, error
    return ingest, count, None


@_fuzz
@given(lines=_files, over_long=st.sampled_from(["truncate", "drop"]))
def test_no_row_is_lost_and_every_refusal_has_its_place(
    tmp_path_factory: pytest.TempPathFactory,
    tokenizer: PreTrainedTokenizerFast,
    lines: list[bytes],
    over_long: OverLong,
) -> None:
    """Rows of the file = rows used + rows skipped + rows dropped, whatever is in them.

    Each skipped row is in rejected.jsonl with the line it stands on, and what is refused under
    `error` is what is left out under `skip`.
    """
    folder = tmp_path_factory.mktemp("fuzz")
    lines = [*lines, b'{"text": "the last"}']
    (folder / "rows.jsonl").write_bytes(b"\n".join(lines))
    ingest, count, raised = _ingest(folder, tokenizer, "skip", over_long)
    assert raised is None
    summary = ingest.summary()
    assert summary.rows == len(lines)
    assert summary.rows == summary.used + summary.skipped + summary.dropped
    assert summary.examples == summary.used == count

    rejected = folder / "rejected.jsonl"
    written_out = rejected.read_bytes().splitlines() if rejected.exists() else []
    entries = [json.loads(line) for line in written_out]
    assert len(entries) == summary.skipped
    numbers = [_line_of(entry["place"]) for entry in entries]
    assert len(set(numbers)) == len(numbers) and max(numbers, default=1) <= len(lines)
    assert all(entry["reason"].isprintable() and entry["reason"] for entry in entries)

    _, _, raised = _ingest(folder, tokenizer, "error", over_long)
    assert (raised is not None) == bool(entries)
    for fault in summary.skipped_rows:
        assert fault.place in str(raised) and fault.reason in str(raised)
    if summary.skipped > 1:
        assert f"{summary.skipped} of {len(lines)} rows cannot be used" in str(raised)


def _line_of(place: str) -> int:
    match = re.fullmatch(r"rows\.jsonl:(\d+)(:\d+)?", place)
    assert match is not None, place
    return int(match[1])


@_fuzz
@given(rows=st.lists(_columns, min_size=ROWS_A_FILE, max_size=ROWS_A_FILE))
def test_rows_in_memory_likewise(
    tokenizer: PreTrainedTokenizerFast, rows: list[dict[str, Any]]
) -> None:

    source = InMemory(data=[*rows, {"text": "the last"}])
    ingest = Ingest(
        source, Encoder(tokenizer), Path(), length=48, over_long="truncate", on_bad_row="skip"
    )
    places = [example.place for example in ingest.examples()]
    summary = ingest.summary()
    assert summary.rows == len(rows) + 1 == summary.used + summary.skipped
    assert len(set(places)) == len(places) == summary.used
    assert all(re.fullmatch(r"data\[\d+\]", fault.place) for fault in summary.skipped_rows)
