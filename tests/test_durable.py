"""Whole or absent, and damage is never silent."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nexus import durable
from nexus.durable import Damaged


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with durable.directory(tmp_path / "step-1") as aside:
        (aside / "a.bin").write_bytes(bytes(range(256)))
        (aside / "b.json").write_text("{}")
    return tmp_path / "step-1"


def test_a_directory_verifies_as_it_was_written(folder: Path) -> None:
    durable.verify(folder)
    assert sorted(path.name for path in folder.parent.iterdir()) == ["step-1"]


@pytest.mark.parametrize("name", ["a.bin", "b.json", durable.MANIFEST])
def test_every_single_flipped_bit_of_a_small_directory_shows(folder: Path, name: str) -> None:
    whole = (folder / name).read_bytes()
    for at in range(len(whole) * 8):
        flipped = bytearray(whole)
        flipped[at // 8] ^= 1 << at % 8
        (folder / name).write_bytes(flipped)
        try:
            durable.verify(folder)
        except Damaged:
            continue
        assert name == durable.MANIFEST  # only white space there carries nothing
        assert json.loads(bytes(flipped)) == json.loads(whole)


@pytest.mark.parametrize("name", ["../a", "/etc/passwd", "a/b", ""])
def test_a_manifest_that_names_a_file_elsewhere_is_refused(folder: Path, name: str) -> None:
    manifest = json.loads((folder / durable.MANIFEST).read_text())
    manifest["files"][name] = {"bytes": 1, "sha256": "0"}
    (folder / durable.MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(Damaged, match="names something"):
        durable.verify(folder)


def test_a_block_that_fails_leaves_nothing_under_the_name(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), durable.directory(tmp_path / "x") as aside:
        (aside / "half").write_text("half")
        raise RuntimeError
    assert not (tmp_path / "x").exists()
    durable.sweep(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_quarantined_directory_never_takes_the_name_of_another(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / "x").mkdir()
        (tmp_path / "x" / "n").write_text(str(number))
        durable.quarantine(tmp_path / "x")
    assert {path.read_text() for path in tmp_path.glob("quarantine-*/n")} == {"0", "1", "2"}


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    durable.write(tmp_path / "a", "one")
    durable.write(tmp_path / "a", b"two")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_bytes() == b"two"
