"""Files and directories that are whole or absent, whatever happens to process, disk or power.

Written aside, flushed to disk, renamed, and the rename flushed too. A directory carries a manifest
of sizes and SHA-256, so that later damage shows before its content is used.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nexus.errors import NexusError

MANIFEST = "MANIFEST.json"
SCHEMA = 1
ASIDE, DOOMED, QUARANTINE = ".tmp-", ".del-", "quarantine-"

_FLAT_NAME = re.compile(r"[A-Za-z0-9._-]+")


class Damaged(NexusError):
    """A directory is not what was written into it."""


def write(path: Path, content: str | bytes) -> None:
    """Replace a file by `content`, or leave it as it was."""
    aside = path.with_name(f"{ASIDE}{path.name}")
    with aside.open("wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)
    flush(path.parent)


@contextmanager
def directory(final: Path) -> Iterator[Path]:
    """A folder to write flat files into, which becomes `final` when all of it is on disk.

    Its manifest is written last. If the block raises, nothing of it is left under `final`.
    """
    aside = final.with_name(f"{ASIDE}{final.name}")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    yield aside
    files = sorted(path for path in aside.iterdir() if path.name != MANIFEST)
    entries = {path.name: {"bytes": path.stat().st_size, "sha256": sha256(path)} for path in files}
    for path in files:
        flush(path)
    write(aside / MANIFEST, json.dumps({"schema": SCHEMA, "files": entries}, indent=1) + "\n")
    aside.rename(final)
    flush(final.parent)


def verify(folder: Path) -> None:
    """Compare a directory with its manifest.

    Raises:
        Damaged: naming the first file that is missing, of another size, or of other content.
    """
    for name, entry in _manifest(folder).items():
        path = folder / name
        if not path.is_file() or path.is_symlink():
            raise Damaged(f"{path} is missing")
        if (size := path.stat().st_size) != entry["bytes"]:
            raise Damaged(f"{path} has {size:,} bytes, and was written with {entry['bytes']:,}")
        if sha256(path) != entry["sha256"]:
            raise Damaged(f"{path} is not what was written: its SHA-256 differs")


def quarantine(path: Path) -> Path:
    """Put a damaged file or directory out of the way, under a name that nothing else takes."""
    names = (f"{QUARANTINE}{path.name}" + (f"-{n}" if n else "") for n in itertools.count())
    target = next(path.with_name(name) for name in names if not path.with_name(name).exists())
    path.rename(target)
    flush(target.parent)
    return target


def remove(folder: Path) -> None:
    """Delete a directory: from one moment to the next for whoever looks for its name."""
    doomed = folder.with_name(f"{DOOMED}{folder.name}")
    shutil.rmtree(doomed, ignore_errors=True)
    folder.rename(doomed)
    shutil.rmtree(doomed)


def sweep(folder: Path) -> None:
    """Delete what was being written or deleted when a process died. For one process alone."""
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


def _manifest(folder: Path) -> dict[str, dict[str, int | str]]:
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_bytes())
        schema, files = manifest["schema"], dict(manifest["files"])
        whole = all(
            _FLAT_NAME.fullmatch(name) and isinstance(entry["bytes"], int) and entry["sha256"]
            for name, entry in files.items()
        )
    except FileNotFoundError:
        raise Damaged(f"{path} is missing") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise Damaged(f"{path} cannot be read") from None
    if schema != SCHEMA:
        raise Damaged(f"{path} is of format {schema}, this version reads {SCHEMA}")
    if not whole:
        raise Damaged(f"{path} names something that is no file of a manifest")
    return files
