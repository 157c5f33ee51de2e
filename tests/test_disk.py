"""What a disk refuses is said in one message, and nothing else is taken for the disk's doing."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from nexus import disk
from nexus.disk import DiskFault, DiskFull, error_number, existing, reading, writing
from nexus.errors import UsageError

FREE = r"[\d,]+ are free there"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_no_room_can_be_made(tmp_path: Path, number: int) -> None:
    said = rf"weights cannot be written: .* 1,234 bytes, and {FREE}"
    with pytest.raises(DiskFull, match=said), writing(tmp_path / "weights", 1234):
        raise OSError(number, os.strerror(number))
    assert DiskFull.exit_code == 75


@pytest.mark.parametrize("number", [errno.EIO, errno.EROFS, errno.ENOENT, errno.EACCES])
def test_other_faults_do_not_go_away(tmp_path: Path, number: int) -> None:
    said = rf"weights cannot be written: {os.strerror(number)}\. .*{FREE}.* run the same command"
    with pytest.raises(DiskFault, match=said), writing(tmp_path / "weights"):
        raise OSError(number, os.strerror(number))
    assert DiskFault.exit_code == 1


def test_the_file_that_an_error_names_is_the_one_that_is_meant(tmp_path: Path) -> None:
    with pytest.raises(DiskFault, match=r"gone/deep/file cannot be written"), writing(tmp_path):
        (tmp_path / "gone" / "deep" / "file").write_text("x")


def test_what_is_written_aside_is_called_what_it_will_be(tmp_path: Path) -> None:
    with pytest.raises(DiskFault, match=r"/step-2/x cannot be written"), writing(tmp_path):
        (tmp_path / ".tmp-step-2" / ".tmp-x").write_text("x")


def test_a_disk_without_inodes_has_room_and_no_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        os, "statvfs", lambda _: SimpleNamespace(
            f_files=9, f_favail=0, f_frsize=4096, f_bavail=5, f_blocks=9, f_bfree=5
        )
    )  # fmt: skip
    with pytest.raises(DiskFull, match="but no inode"), writing(tmp_path / "x"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_disk_that_cannot_even_be_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Path) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(shutil, "disk_usage", refuse)
    with pytest.raises(DiskFault, match="cannot be told"), writing(tmp_path / "x"):
        raise OSError(errno.EIO, os.strerror(errno.EIO))


@pytest.mark.parametrize(
    "error", [ValueError("no"), ConnectionResetError(104, "reset"), TimeoutError(), KeyError("a")]
)
def test_what_is_not_the_disk_passes(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(type(error)), writing(tmp_path):
        raise error
    with pytest.raises(UsageError, match="mine"), writing(tmp_path):
        raise UsageError("mine")


def test_the_number_is_found_where_libraries_put_it() -> None:
    assert error_number(RuntimeError("I/O error: No space left on device (os error 28)")) == 28
    assert error_number(RuntimeError("[Errno 28] No space left on device")) == 28
    assert error_number(OSError("nothing")) is None
    wrapped = RuntimeError("writing failed")
    wrapped.__cause__ = OSError(errno.EIO, "x")
    assert error_number(wrapped) == errno.EIO


def test_reading_tells_the_disk_from_the_file(tmp_path: Path) -> None:
    said = "x cannot be read: Input/output error"
    with pytest.raises(DiskFault, match=said), reading(tmp_path / "x"):
        raise OSError(errno.EIO, "x")
    with pytest.raises(FileNotFoundError), reading(tmp_path):
        (tmp_path / "x").read_bytes()


def test_the_nearest_directory_that_is_there(tmp_path: Path) -> None:
    assert existing(tmp_path / "a" / "b" / "c") == tmp_path
    assert disk.inodes_used_up(tmp_path) is False
