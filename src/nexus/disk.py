"""What a disk that refuses a write means: which file, what it needed, what is left, what to do."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nexus.errors import Interrupted, NexusError

ASIDE = ".tmp-"
"""What the names of things begin with that are not whole yet."""

FULL = {errno.ENOSPC, errno.EDQUOT}

_REMEDIES = {
    errno.ENOSPC: "Make room",
    errno.EDQUOT: "Your quota is used up: make room, or have it raised",
    errno.EROFS: "Mount it for writing, then run the same command again",
    errno.EACCES: "Permit writing there, then run the same command again",
    errno.EPERM: "Permit writing there, then run the same command again",
    errno.EIO: "The system log says what the disk has. Put the run directory on a sound one, then "
    "run the same command again",
    errno.ENOENT: "Its directory is gone while it is being written into: put it back and run the "
    "same command again, or begin anew",
}
_OTHERS = {
    getattr(errno, name)
    for name in (
        "ENOTDIR", "EISDIR", "ENOTEMPTY", "EEXIST", "EFBIG", "ESTALE", "ENODEV", "ENXIO", "ELOOP",
        "ENAMETOOLONG", "EMFILE", "ENFILE", "EMLINK", "EBUSY", "ENOTCONN", "EUCLEAN", "EREMOTEIO",
    )
    if hasattr(errno, name)
}  # fmt: skip
_REMEDY = "Mend that, then run the same command again"

_IN_WORDS = re.compile(r"(?:os error|Errno) (\d+)")
"""How libraries that are not written in Python name the system's error."""


class DiskFull(Interrupted):
    """There is no room for a file. Once there is, the same command continues."""


class DiskFault(NexusError):
    """A file cannot be written or read, and not for want of room."""


@contextmanager
def writing(path: Path, needed: int | None = None) -> Iterator[None]:
    """Say of whatever the disk refuses inside which file it was, and what it would have needed.

    Args:
        path: what is being written, where an error does not name a file itself.
        needed: its bytes, as far as they are known.

    Raises:
        DiskFull: if there is no room for it.
        DiskFault: if it cannot be written for another reason.
    """
    try:
        yield
    except NexusError:
        raise
    except Exception as error:
        number = error_number(error)
        if number is None:
            raise
        named = error.filename if isinstance(error, OSError) else None
        file = Path(named) if isinstance(named, str) else path
        meant = Path(*(part.removeprefix(ASIDE) for part in file.parts))
        raise refusal(meant, number, needed) from error


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Tell a disk that cannot be read from a file that is damaged or absent.

    Raises:
        DiskFault: if the disk, not the file, is at fault.
    """
    try:
        yield
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise
    except OSError as error:
        raise DiskFault(
            f"{error.filename or path} cannot be read: {os.strerror(error.errno or errno.EIO)}. "
            "That is the disk, not the file: nothing was changed. Run the same command again once "
            "the disk can be read, or move that directory away to go on without it"
        ) from error


def error_number(error: BaseException) -> int | None:
    """The number of the disk's error behind an exception of any library, if there is one."""
    if isinstance(error, OSError) and error.errno is not None:
        number: int | None = error.errno
    else:
        said = _IN_WORDS.search(str(error))
        number = int(said[1]) if said else None
    if number in _REMEDIES or number in _OTHERS:
        return number
    cause = error.__cause__
    return error_number(cause) if cause is not None else None


def refusal(path: Path, number: int, needed: int | None = None) -> NexusError:
    """The one message for a write that the disk refused."""
    home = existing(path)
    room = f"{needed:,} bytes" if needed else "more room"
    left = f"It needs {room}, and {_free_there(home)}"
    if number == errno.ENOSPC and inodes_used_up(home):
        left += ", but no inode: the disk holds as many files as it can"
    message = (
        f"{path} cannot be written: {os.strerror(number)}. {left}. What was written before is "
        f"intact. {_REMEDIES.get(number, _REMEDY)}"
    )
    return DiskFull(message) if number in FULL else DiskFault(message)


def existing(path: Path) -> Path:
    """The nearest directory above `path` that is there."""
    return next((parent for parent in path.absolute().parents if parent.is_dir()), Path("/"))


def inodes_used_up(folder: Path) -> bool:
    if not hasattr(os, "statvfs"):
        return False
    room = os.statvfs(folder)
    return room.f_files > 0 and room.f_favail == 0


def _free_there(folder: Path) -> str:
    try:
        return f"{shutil.disk_usage(folder).free:,} are free there"
    except OSError as error:
        return f"how many are free cannot be told ({error.strerror})"
