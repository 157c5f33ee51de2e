"""Every file operation beneath a folder, counted; and at one of them, a fault.

The calls that change a file system are wrapped in this process: opening for writing, writing,
flushing, renaming, making and deleting. What a library writes in native code (safetensors) counts
as one write. Meant for a process that has been forked for the purpose, and ends soon.
"""

from __future__ import annotations

import builtins
import errno
import io
import itertools
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

How = Literal["before", "after", "ENOSPC", "EIO"]
WRITING = set("wax+")
"""Letters of the mode in which a file is opened, any of which means that it may be written."""
GROWING = {"open", "os.open", "write", "pwrite", "mkdir", "fsync", "save"}
"""What fails on a full disk. Renaming and deleting still work there."""
TORN = {"write", "save"}
"""What can be done by half."""

_NATIVE = {
    "ENOSPC": "I/O error: No space left on device (os error 28)",
    "EIO": "I/O error: Input/output error (os error 5)",
}


@dataclass(frozen=True)
class Operation:
    """One change of the file system."""

    number: int
    """From 1."""
    call: str
    path: str
    target: str = ""
    """Of a renaming: the new path."""
    size: int = 0
    """Of a flush: the bytes that are on disk from then on."""


@dataclass(frozen=True)
class Fault:
    """What happens at operation `at`.

    "before" and "after" kill the process there, "after" in the middle of the bytes if it is a
    write. ENOSPC stays for all that follows, as on a full disk; EIO comes once.
    """

    at: int
    how: How


class Watch:
    """Counts from `install()` on, for the rest of this process."""

    def __init__(self, folder: Path, fault: Fault | None = None) -> None:
        self.seen: list[Operation] = []
        self._folder = os.path.realpath(folder)
        self._fault = fault
        self._numbers = itertools.count(1)

    def install(self) -> None:
        """Wrap the calls. There is no way back, which a forked process does not need."""
        for name in ("rename", "replace", "mkdir", "unlink", "remove", "rmdir", "link", "symlink"):
            self._wrap(os, name, name)
        for name in ("fsync", "fdatasync", "truncate", "ftruncate", "pwrite"):
            self._wrap(os, name, "fsync" if "sync" in name else name.removeprefix("f"))
        self._wrap_os_open()
        self._wrap_os_write()
        self._wrap_open()
        if "safetensors.torch" in sys.modules:
            self._wrap_safetensors()

    def _wrap(self, module: Any, name: str, call: str) -> None:
        original = getattr(module, name)

        def counted(*args: Any, **kwargs: Any) -> Any:
            path = _where(args[0], kwargs.get("dir_fd", kwargs.get("src_dir_fd")))
            target = _where(args[1]) if name in ("rename", "replace") else ""
            return self.act(call, path, lambda: original(*args, **kwargs), target=target)

        setattr(module, name, counted)

    def _wrap_os_write(self) -> None:
        original = os.write

        def counted(descriptor: int, data: Any) -> int:
            half = memoryview(data).cast("B")[: memoryview(data).nbytes // 2]
            result: int = self.act(
                "write",
                _where(descriptor),
                lambda: original(descriptor, data),
                lambda: original(descriptor, half),
            )
            return result

        os.write = counted

    def _wrap_os_open(self) -> None:
        original = os.open

        def counted(path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
            def work() -> int:
                return original(path, flags, mode, dir_fd=dir_fd)

            if not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC):
                return work()
            result: int = self.act("os.open", _where(path, dir_fd), work)
            return result

        os.open = counted

    def _wrap_open(self) -> None:
        original, raw, watch = io.open, io.FileIO, self

        class Raw(raw):  # type: ignore[valid-type,misc]
            """An open file, whose bytes go to the kernel one by one call."""

            def __init__(self, file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> None:
                def work() -> None:
                    super(Raw, self).__init__(file, mode, *args, **kwargs)

                if set(mode) & WRITING:
                    watch.act("open", _where(file), work)
                else:
                    work()

            def write(self, data: Any) -> int:
                data = memoryview(data).cast("B")
                return int(
                    watch.act(
                        "write",
                        _where(self.fileno()),
                        lambda: super(Raw, self).write(data),
                        lambda: super(Raw, self).write(data[: len(data) // 2]),
                    )
                )

            def truncate(self, size: int | None = None) -> int:
                path = _where(self.fileno())
                return int(watch.act("truncate", path, lambda: super(Raw, self).truncate(size)))

        def counted(file: Any, mode: str = "r", buffering: int = -1, *args: Any, **kw: Any) -> Any:
            if not set(mode) & WRITING or not watch.beneath(_where(file)):
                return original(file, mode, buffering, *args, **kw)
            return _opened(Raw, file, mode, buffering, *args, **kw)

        builtins.open = io.open = counted
        for module in list(sys.modules.values()):
            if vars(module).get("FileIO") is raw:
                vars(module)["FileIO"] = Raw

    def _wrap_safetensors(self) -> None:
        from safetensors import SafetensorError

        module: Any = sys.modules["safetensors.torch"]
        original = module.serialize_file

        def counted(tensors: Any, filename: Any, *args: Any, **kwargs: Any) -> Any:
            def half() -> None:
                original(tensors, filename, *args, **kwargs)
                with io.FileIO(filename, "r+") as file:
                    file.truncate(file.seek(0, io.SEEK_END) // 2)

            def fails(how: How) -> Exception:
                return SafetensorError(f"Error while serializing: {_NATIVE[how]}")

            return self.act(
                "save", _where(filename),
                lambda: original(tensors, filename, *args, **kwargs), half, fails,
            )  # fmt: skip

        module.serialize_file = counted

    def beneath(self, path: str) -> bool:
        return path == self._folder or path.startswith(self._folder + "/")

    def act(
        self,
        call: str,
        path: str,
        work: Callable[[], Any],
        half: Callable[[], Any] | None = None,
        fails: Callable[[How], Exception] | None = None,
        target: str = "",
    ) -> Any:
        """Do `work`, counted if its path is beneath the folder, unless this is the moment."""
        if not self.beneath(path):
            return work()
        inside = len(self._folder) + 1
        size = os.path.getsize(path) if call == "fsync" and os.path.isfile(path) else 0
        operation = Operation(next(self._numbers), call, path[inside:], target[inside:], size)
        self.seen.append(operation)
        fault = self._fault
        if fault is None:
            return work()
        if fault.how in ("ENOSPC", "EIO"):
            if _strikes(fault, operation):
                if half is not None and operation.number == fault.at:
                    with suppress(OSError):
                        half()
                raise fails(fault.how) if fails else _error(fault.how, path)
            return work()
        if operation.number != fault.at:
            return work()
        try:
            if fault.how == "after":
                (half or work)()
        finally:  # also if it did not succeed
            os.kill(os.getpid(), signal.SIGKILL)


def _strikes(fault: Fault, operation: Operation) -> bool:
    if operation.number == fault.at:
        return True
    later = operation.number > fault.at
    return later and fault.how == "ENOSPC" and operation.call in GROWING


def _error(how: How, path: str) -> OSError:
    number = getattr(errno, how)
    return OSError(number, os.strerror(number), path)


def _where(file: Any, folder: int | None = None) -> str:
    """The absolute path of what a call was given: a path or a descriptor; "" if it is neither."""
    if not isinstance(file, str | bytes | os.PathLike):
        try:
            file = file if isinstance(file, int) else file.fileno()
            return os.readlink(f"/proc/self/fd/{file}").removesuffix(" (deleted)")
        except OSError:
            return ""
    path = os.fsdecode(file)
    if folder is not None and not os.path.isabs(path):
        path = os.path.join(_where(folder), path)
    parent, name = os.path.split(os.path.abspath(path))
    return os.path.join(os.path.realpath(parent), name)


def _opened(
    raw_class: type[io.FileIO],
    file: Any,
    mode: str,
    buffering: int = -1,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
    closefd: bool = True,
    opener: Any = None,
) -> Any:
    """What `open` returns, its raw file being of another class."""
    raw = raw_class(file, mode.replace("b", "").replace("t", ""), closefd, opener)
    if buffering == 0:
        return raw
    size = buffering if buffering > 1 else io.DEFAULT_BUFFER_SIZE
    buffered: Any = (io.BufferedRandom if "+" in mode else io.BufferedWriter)(raw, size)
    if "b" in mode:
        return buffered
    text = io.TextIOWrapper(buffered, encoding, errors, newline, line_buffering=buffering == 1)
    text.mode = mode  # type: ignore[misc]
    return text
