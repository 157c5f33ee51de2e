"""The Python code that comes with a model: who names it, and what it is."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from nexus.errors import UsageError
from nexus.inspection.json_file import read_json

NAMING = (
    "config.json",
    "tokenizer_config.json",
    "generation_config.json",
    "processor_config.json",
    "preprocessor_config.json",
)
"""The files that can name code to run."""

_KEYS = ("auto_map", "custom_pipelines", "custom_generate")
_KERNELS = ("attn_implementation", "_attn_implementation", "experts_implementation")
"""Settings that may name compiled code on the hub, as owner/name."""


def refuse_code(folder: Path) -> None:
    """Make sure that no settings in a folder name Python code to run.

    Raises:
        UsageError: Naming the first that does.
    """
    for path in _naming(folder):
        refuse_code_in(path)


def refuse_code_in(path: Path) -> None:
    """The same of one file of settings."""
    for key, named in _mentions(read_json(path)):
        raise UsageError(
            f"{path}: {key} names Python code to run, '{named}': it is refused. Read that code, "
            "and if you trust it add trust_remote_code: true beside the model (and of a model on "
            "the hub revision: COMMIT); or, if transformers knows the architecture itself, add "
            "ignore_remote_code: true."
        )


def refuse_foreign_code(folder: Path) -> None:
    """Make sure that the code which settings name lies beside them, where it can be looked at.

    Raises:
        UsageError: Naming the first that lies elsewhere.
    """
    for path in _naming(folder):
        for key, named in _mentions(read_json(path)):
            if "--" in named:
                raise UsageError(
                    f"{path}: {key} names Python code of another repository, '{named}', at no "
                    "commit: it is refused. Copy that code beside the model, and name the copy."
                )


def refuse_kernels(path: Path) -> None:
    """Make sure that a configuration fetches no compiled code.

    Raises:
        UsageError: Naming the setting that does.
    """
    for key, named in _kernels(read_json(path)):
        raise UsageError(
            f"{path}: {key} '{named}' is compiled code that would be fetched from the hub and run: "
            f"it is refused. Remove {key} from the file."
        )


def code_files(folder: Path) -> list[Path]:
    """The Python files of a model, in order."""
    return sorted(path for path in folder.rglob("*.py") if path.is_file())


def code_hash(folder: Path) -> str:
    """SHA-256 of the names and contents of all Python files."""
    digest = hashlib.sha256()
    for path in code_files(folder):
        name, content = path.relative_to(folder).as_posix(), path.read_bytes()
        digest.update(f"{name} {len(content)}\n".encode() + content)
    return digest.hexdigest()


def _naming(folder: Path) -> list[Path]:
    return [folder / name for name in NAMING if (folder / name).is_file()]


def _mentions(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        if key in _KEYS and value:
            yield key, ", ".join(_leaves(value))
        elif isinstance(value, Mapping):
            yield from _mentions(value)


def _leaves(value: Any) -> list[str]:
    match value:
        case Mapping():
            return [leaf for part in value.values() for leaf in _leaves(part)]
        case list():
            return [leaf for part in value for leaf in _leaves(part)]
        case None:
            return []
    return [str(value)[:80]]


def _kernels(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        if key in _KERNELS:
            yield from ((key, leaf) for leaf in _leaves(value) if "/" in leaf)
        elif isinstance(value, Mapping):
            yield from _kernels(value)
