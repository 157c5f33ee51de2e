"""Whole or absent, and damage is never silent."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from nexus import durable
from nexus.disk import DiskFault, DiskFull
from nexus.durable import Damaged


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make(tmp_path / "step-1")


def make(path: Path) -> Path:
    with durable.directory(path) as aside:
        (aside / "a.bin").write_bytes(bytes(range(256)))
        (aside / "b.json").write_text("{}")
        (aside / "more").mkdir()
        (aside / "more" / "c.txt").write_text("c")
    return path


def test_a_directory_verifies_as_it_was_written(folder: Path) -> None:
    durable.verify(folder)
    assert sorted(path.name for path in folder.parent.iterdir()) == ["step-1"]
    files = json.loads((folder / durable.MANIFEST).read_text())["files"]
    assert files.keys() == {"a.bin", "b.json", "more/c.txt"}


@pytest.mark.parametrize("name", ["a.bin", "b.json", "more/c.txt", durable.MANIFEST])
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


@pytest.mark.parametrize("name", ["../a", "/etc/passwd", "a/../../b", "..", "a//b", "", "a\x00"])
def test_a_manifest_that_names_a_file_elsewhere_is_refused(folder: Path, name: str) -> None:
    manifest = json.loads((folder / durable.MANIFEST).read_text())
    manifest["files"][name] = {"bytes": 1, "sha256": "0"}
    (folder / durable.MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(Damaged, match="names something"):
        durable.verify(folder)


@pytest.mark.parametrize("name", ["a.bin", "more"])
def test_a_link_to_a_file_elsewhere_is_damage(folder: Path, name: str) -> None:
    """Even to one of the very same content."""
    away = folder.with_name("away")
    (folder / name).rename(away)
    (folder / name).symlink_to(away)
    with pytest.raises(Damaged, match="is missing"):
        durable.verify(folder)


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"1", b"null", b"{}", b"\xff", b"[" * 100_000, b'{"schema": 1, "files": {"a": 1}}',
     b'{"schema": 1, "files": {"a": {"bytes": true, "sha256": "x"}}}'],
)  # fmt: skip
def test_a_manifest_that_is_none_is_damage(folder: Path, content: bytes) -> None:
    (folder / durable.MANIFEST).write_bytes(content)
    with pytest.raises(Damaged, match=durable.MANIFEST):
        durable.verify(folder)


def test_a_file_named_twice_in_a_manifest_is_damage(folder: Path) -> None:
    """One flipped bit can make one name another; the first of two would be forgotten."""
    text = (folder / durable.MANIFEST).read_text()
    (folder / durable.MANIFEST).write_text(text.replace("b.json", "a.bin"))
    with pytest.raises(Damaged, match="cannot be read"):
        durable.verify(folder)


def test_a_manifest_of_another_format_is_refused(folder: Path) -> None:
    (folder / durable.MANIFEST).write_text('{"schema": 99, "files": {}}')
    with pytest.raises(Damaged, match="format 99, this version reads 1"):
        durable.verify(folder)


def test_a_block_that_fails_leaves_nothing(tmp_path: Path) -> None:
    for fault in (RuntimeError, KeyboardInterrupt):
        with pytest.raises(fault), durable.directory(tmp_path / "x") as aside:
            (aside / "half").write_text("half")
            raise fault
        assert not list(tmp_path.iterdir())


def test_a_directory_is_replaced_as_a_whole(folder: Path) -> None:
    with durable.directory(folder) as aside:
        (aside / "new").write_text("new")
        durable.verify(folder)  # the old one is there until the new one is whole
    durable.verify(folder)
    assert {path.name for path in folder.iterdir()} == {"new", durable.MANIFEST}
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


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


def test_sweeping_spares_what_is_whole_or_put_aside(folder: Path) -> None:
    durable.quarantine(make(folder.with_name("other")))
    (folder.parent / ".tmp-file").write_text("half")
    (folder.parent / ".del-step-0").mkdir()
    (folder.parent / ".tmp-link").symlink_to(folder)
    durable.sweep(folder.parent)
    assert {path.name for path in folder.parent.iterdir()} == {"step-1", "quarantine-other"}
    durable.verify(folder)


Act = Callable[[Path], Any]
ACTS: dict[str, Act] = {
    "write": lambda folder: durable.write(folder / "file", "new"),
    "directory": lambda folder: make(folder / "step-2"),
    "replace": lambda folder: make(folder / "step-1"),
}


@pytest.mark.parametrize("act", ACTS.values(), ids=ACTS)
@pytest.mark.parametrize(
    ("number", "fault"),
    [(errno.ENOSPC, DiskFull), (errno.EDQUOT, DiskFull), (errno.EIO, DiskFault),
     (errno.EROFS, DiskFault)],
)  # fmt: skip
def test_whatever_the_disk_refuses_what_was_there_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, act: Act, number: int, fault: type[Exception]
) -> None:
    """At every call in turn that opens, flushes or renames."""
    folder = tmp_path / "run"
    for limit in range(1, 100):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        durable.write(folder / "file", "old")
        make(folder / "step-1")
        calls = iter(range(1, 10_000))

        def counted(real: Callable[..., Any]) -> Callable[..., Any]:
            def call(*given: Any, **named: Any) -> Any:
                if next(calls) == limit:  # noqa: B023
                    raise OSError(number, os.strerror(number), str(given[0]))
                return real(*given, **named)

            return call

        with monkeypatch.context() as patch:
            for name in ("open", "fsync", "rename", "replace", "mkdir"):
                patch.setattr(os, name, counted(getattr(os, name)))
            try:
                act(folder)
            except fault as error:
                assert "cannot be written" in str(error) and "free there" in str(error)
            else:
                assert limit > 3
                break
        if (folder / "step-1").exists():
            durable.verify(folder / "step-1")
        assert (folder / "file").read_text() in ("old", "new")
        assert not list(folder.glob(".tmp-*"))
    else:
        pytest.fail("it never succeeded")


def test_a_disk_that_cannot_be_read_is_no_damage(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(durable.hashlib, "file_digest", fail)
    with pytest.raises(DiskFault, match="That is the disk, not the file"):
        durable.verify(folder)


PROGRAM = """
import sys
from pathlib import Path
from nexus import durable
run = Path(sys.argv[1])
durable.write(run / "recipe.yaml", "one")
for step in ("step-1", "step-2", "step-2"):
    with durable.directory(run / step) as aside:
        for name in ("a", "b"):
            (aside / name).write_bytes(b"x" * 100_000)
durable.remove(run / "step-1")
durable.quarantine(run / "step-2")
"""

CALL = re.compile(r"\d+ +(?P<call>\w+)\((?P<rest>.*)\) = (?P<result>-?\d+)")


def test_every_rename_is_between_two_flushes(tmp_path: Path) -> None:
    """Of what is renamed before it, and of the directory it is renamed in after it.

    Taken from what the kernel was asked, so that power may fail anywhere. Drop any `flush` in
    durable.py to see it fail.
    """
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed: the order of flushes and renames was NOT checked")
    log = tmp_path / "log"
    watched = "openat,open,write,fsync,fdatasync,rename,renameat,renameat2,close,mkdir"
    (tmp_path / "run").mkdir()
    done = subprocess.run(
        [strace, "-f", "-y", "-e", f"trace={watched}", "-o", str(log),
         sys.executable, "-c", PROGRAM, str(tmp_path / "run")],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    if "ptrace" in done.stderr or "PTRACE" in done.stderr:
        pytest.skip("strace may not trace here: the order of flushes and renames was NOT checked")
    assert done.returncode == 0, done.stderr
    assert order_of(log.read_text(), tmp_path / "run") == 10


def order_of(log: str, run: Path) -> int:
    """Check the order of the calls below a directory; returns how many renames there were."""
    dirty: set[str] = set()
    waiting: set[str] = set()
    renames = 0
    for line in _whole_lines(log):
        if written := re.search(rf"write\(\d+<({run}[^>]*)>", line):
            dirty.add(written[1])
            assert not waiting, f"{waiting}, renamed in, not flushed before {line}"
        elif flushed := re.search(rf"f(?:data)?sync\(\d+<({run}[^>]*)>\) += 0", line):
            dirty.discard(flushed[1])
            waiting.discard(flushed[1])
        elif moved := re.search(rf'rename\w*\(.*?"({run}[^"]*)", .*?"({run}[^"]*)".*= 0', line):
            renames += 1
            source, target = moved[1], moved[2]
            assert not waiting, f"{waiting}, renamed in, not flushed before {line}"
            if Path(target).name.startswith(durable.DOOMED):
                continue  # on its way out: should the name come back, so does all of it
            inside = [path for path in dirty if f"{path}/".startswith(f"{source}/")]
            assert not inside, f"{inside} not flushed before {line}"
            waiting.add(str(Path(target).parent))
    assert not waiting, f"renamed in {waiting}, which was not flushed after"
    return renames


def _whole_lines(log: str) -> list[str]:
    """Calls of several threads: a call that was interrupted in the log is put together again."""
    begun: dict[str, str] = {}
    lines = []
    for line in log.splitlines():
        process, _, rest = line.partition(" ")
        if rest.endswith("<unfinished ...>"):
            begun[process] = rest.removesuffix("<unfinished ...>").strip()
        elif resumed := re.match(r" *<\.\.\. \w+ resumed>(.*)", rest):
            lines.append(begun.pop(process) + resumed[1])
        else:
            lines.append(rest.strip())
    return lines


def test_others_may_read_what_the_mask_of_the_user_lets_them_read(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with durable.directory(tmp_path / "x") as aside:
            save_file({"a": torch.zeros(1)}, aside / "a.safetensors")  # writes it as 0600
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "x").iterdir()} == {0o640}
