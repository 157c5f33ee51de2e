"""Files and directories that are whole or absent, whatever happens to process, disk or power.

Written aside, flushed to disk, renamed, and the rename flushed too. A directory carries a manifest
of sizes and SHA-256, so that later damage shows before its content is used. What a disk refuses is
said as `nexus.disk` says it.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import re
import shutil
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from nexus.disk import ASIDE, reading, writing
from nexus.errors import NexusError

MANIFEST = "MANIFEST.json"
SCHEMA = 1
DOOMED, QUARANTINE = ".del-", "quarantine-"

_THREADS = 4
"""At once flushing or hashing: a disk is waited for while the processor hashes."""

_FLAT_NAME = re.compile(r"[A-Za-z0-9._-]+")


class Damaged(NexusError):
    """A directory is not what was written into it."""


def write(path: Path, content: str | bytes) -> None:
    """Replace a file by `content`, or leave it as it was.

    Raises:
        DiskFull, DiskFault: if the disk refuses; nothing of it is left.
    """
    aside = aside_of(path)
    data = content.encode() if isinstance(content, str) else content
    with writing(path, len(data)):
        try:
            with aside.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            aside.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                aside.unlink(missing_ok=True)
            raise
        flush(path.parent)


@contextmanager
def directory(final: Path, needed: int | None = None) -> Iterator[Path]:
    """A folder to write files into, which becomes `final` when all of it is on disk.

    Its manifest is written last. If the block raises, nothing of it is left under any name. A
    directory that is there already gives way at the last moment.

    Args:
        final: what it will be called. Its parent must be there: one that vanished is not made anew.
        needed: about how many bytes it will hold.

    Raises:
        DiskFull, DiskFault: if the disk refuses.
    """
    aside = aside_of(final)
    shutil.rmtree(aside, ignore_errors=True)
    try:
        with writing(final, needed):
            aside.mkdir()
            yield aside
            _permit(aside)
            write(aside / MANIFEST, _described(aside))
            if final.exists():
                _doom(final)
            aside.rename(final)
            flush(final.parent)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    shutil.rmtree(_doomed(final), ignore_errors=True)


def _permit(folder: Path) -> None:
    """Let be read what the user's mask lets be read: safetensors keeps its files to their owner."""
    mask = os.umask(0)
    os.umask(mask)
    for path in folder.rglob("*"):
        path.chmod((0o777 if path.is_dir() else 0o666) & ~mask)


def aside_of(final: Path) -> Path:
    """Where what will be called `final` is written until it is whole."""
    return final.with_name(f"{ASIDE}{final.name}")


def verify(folder: Path) -> None:
    """Compare a directory with its manifest.

    Raises:
        Damaged: naming the first file that is missing, of another size, or of other content.
        DiskFault: if the disk cannot be read, which says nothing about the directory.
    """
    with reading(folder), ThreadPoolExecutor(_THREADS) as pool:
        sums: list[tuple[Path, Any, Future[str]]] = []
        for name, entry in _manifest(folder).items():
            path = folder / name
            if not path.is_file() or _has_link(folder, name):
                raise Damaged(f"{path} is missing")
            if (size := path.stat().st_size) != entry["bytes"]:
                raise Damaged(f"{path} has {size:,} bytes, and was written with {entry['bytes']:,}")
            sums.append((path, entry["sha256"], pool.submit(sha256, path)))
        for path, written, found in sums:
            if found.result() != written:
                raise Damaged(f"{path} is not what was written: its SHA-256 differs")


def quarantine(path: Path) -> Path:
    """Put a damaged file or directory out of the way, under a name that nothing else takes."""
    names = (f"{QUARANTINE}{path.name}" + (f"-{n}" if n else "") for n in itertools.count())
    target = next(path.with_name(name) for name in names if not _is_there(path.with_name(name)))
    with writing(target):
        path.rename(target)
        flush(target.parent)
    return target


def remove(folder: Path) -> None:
    """Delete a directory: from one moment to the next for whoever looks for its name."""
    with writing(folder):
        shutil.rmtree(_doom(folder))


def sweep(folder: Path) -> None:
    """Delete what was being written or deleted when a process died. For one process alone."""
    with writing(folder):
        for pattern in (f"{ASIDE}*", f"{DOOMED}*"):
            for leftover in folder.glob(pattern):
                if leftover.is_dir() and not leftover.is_symlink():
                    shutil.rmtree(leftover)
                else:
                    leftover.unlink()


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def flush(path: Path) -> None:
    """Force a file or a directory to disk, so that a rename never shows before what it names."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _described(aside: Path) -> str:
    """The manifest of what was written, once all of it is flushed: files, then their folders."""
    (aside / MANIFEST).unlink(missing_ok=True)  # one that was copied along
    files = sorted(path for path in aside.rglob("*") if path.is_file())
    folders = sorted(path for path in aside.rglob("*") if path.is_dir())
    with ThreadPoolExecutor(_THREADS) as pool:
        flushed = [pool.submit(flush, path) for path in files]
        sums = [pool.submit(sha256, path) for path in files]
        entries = {
            path.relative_to(aside).as_posix(): {
                "bytes": path.stat().st_size,
                "sha256": total.result(),
            }
            for path, total in zip(files, sums, strict=True)
        }
        for waited in flushed:
            waited.result()
    for folder in reversed(folders):
        flush(folder)
    return json.dumps({"schema": SCHEMA, "files": entries}, indent=1) + "\n"


def _doomed(path: Path) -> Path:
    return path.with_name(f"{DOOMED}{path.name}")


def _doom(folder: Path) -> Path:
    doomed = _doomed(folder)
    shutil.rmtree(doomed, ignore_errors=True)
    return folder.rename(doomed)


def _is_there(path: Path) -> bool:
    return path.exists() or path.is_symlink()


def _has_link(folder: Path, name: str) -> bool:
    """Whether the way to a file leads over a symbolic link, which may point anywhere."""
    parts = PurePosixPath(name).parts
    return any(folder.joinpath(*parts[:end]).is_symlink() for end in range(1, len(parts) + 1))


def _manifest(folder: Path) -> dict[str, dict[str, int | str]]:
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_bytes(), object_pairs_hook=_unique)
        schema, files = manifest["schema"], dict(manifest["files"])
        whole = all(
            _is_inside(name) and type(entry["bytes"]) is int and entry["sha256"]
            for name, entry in files.items()
        )
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise Damaged(f"{path} is missing") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise Damaged(f"{path} cannot be read") from None
    if schema != SCHEMA:
        raise Damaged(f"{path} is of format {schema}, this version reads {SCHEMA}")
    if not whole:
        raise Damaged(f"{path} names something that is no file of a manifest")
    return files


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A mapping in which no key is there twice, of which the first would be forgotten."""
    if len(values := dict(pairs)) < len(pairs):
        raise ValueError("a key is there twice")
    return values


def _is_inside(name: str) -> bool:
    """Whether a manifest's name is one of a file below its directory."""
    parts = name.split("/")
    return all(_FLAT_NAME.fullmatch(part) and set(part) != {"."} for part in parts)
