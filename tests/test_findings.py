"""findings.json holds what its owner should know, once, however often the run is resumed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from nexus.findings import MOST, Finding, note, read

BAD = Finding("train", 7, "output is nan in rows with text.jsonl:3 – “ä”", "Look at these rows")


def test_what_is_noted_is_read_in_its_order(tmp_path: Path) -> None:
    assert read(tmp_path) == []
    found = [replace(BAD, step=step) for step in (7, 3, 9)]
    for finding in found:
        note(tmp_path, finding)
    assert read(tmp_path) == found
    entries = json.loads((tmp_path / "findings.json").read_text(encoding="utf-8"))
    assert [entry["step"] for entry in entries] == [7, 3, 9]
    assert entries[0]["what"] == BAD.what and entries[0]["remedy"] == BAD.remedy
    assert [path.name for path in tmp_path.iterdir()] == ["findings.json"]


def test_what_is_found_again_is_no_new_finding(tmp_path: Path) -> None:
    note(tmp_path, BAD)
    before = (tmp_path / "findings.json").read_bytes()
    note(tmp_path, replace(BAD))
    assert (tmp_path / "findings.json").read_bytes() == before


def test_thousands_of_bad_steps_do_not_fill_the_disk(tmp_path: Path) -> None:
    for step in range(MOST + 20):
        note(tmp_path, replace(BAD, step=step))
    assert [finding.step for finding in read(tmp_path)] == list(range(MOST))


@pytest.mark.parametrize("content", [b"", b"{", b"3", b'{"a": 1}', b'[{"stage": 1}]', b"\xff"])
def test_a_damaged_file_is_a_finding_itself(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "findings.json").write_bytes(content)
    (lost,) = read(tmp_path)
    assert "damaged" in str(lost)
    note(tmp_path, BAD)
    assert read(tmp_path) == [lost, BAD]


def test_a_finding_is_a_sentence_with_its_place() -> None:
    assert str(BAD) == f"train, step 7: {BAD.what}. {BAD.remedy}"
