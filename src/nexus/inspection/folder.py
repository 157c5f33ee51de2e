"""A model's folder, looked at before any library opens a file in it."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable
from pathlib import Path

from nexus.errors import UsageError
from nexus.inspection import gguf_header, safetensors_header
from nexus.inspection.code import refuse_code, refuse_kernels
from nexus.inspection.generation import check_generation
from nexus.inspection.json_file import read_json
from nexus.inspection.sizes import check_sizes
from nexus.inspection.tensors import Tensors

MOST_FILES = 10_000
MOST_TOKENIZER_BYTES = 500 * 10**6
MOST_TEMPLATE_BYTES = 10**6

CONFIG = "config.json"
GENERATION = "generation_config.json"
_TEMPLATES = "additional_chat_templates"
INDEX = "model.safetensors.index.json"

_SETTINGS = (
    *(CONFIG, INDEX, "tokenizer_config.json", GENERATION, "processor_config.json"),
    *("preprocessor_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json"),
    "chat_template.json",
)
"""The JSON files that transformers reads of a language model, tokenizer.json apart."""

_PICKLED = re.compile(r".*\.(bin|pt|pth|pkl|pickle|ckpt)|pytorch_model.*", re.IGNORECASE)
_FLAT = re.compile(r"[\w.-]+")


def inspect(
    folder: Path, *, gguf_file: str | None = None, code: bool = False, weights: bool = True
) -> None:
    """Make sure that loading a model runs nothing, reads nothing else and fits this world.

    Looks at names, kinds and headers of files; no tensor is read.

    Args:
        folder: Where the model lies: its own folder, or a snapshot in the hub's cache.
        gguf_file: The file in it that is to be loaded, if it is a GGUF file.
        code: Whether settings may name Python code: it may run, or never will.
        weights: Whether the weights are there yet.

    Raises:
        UsageError: Naming the file, what is wrong with it, and what to do.
    """
    _check_kinds(folder)
    for name in _SETTINGS:
        if (folder / name).exists():
            read_json(folder / name)
    if (folder / GENERATION).exists():
        check_generation(folder / GENERATION)
    _check_text(folder)
    _refuse_adapters(folder)
    if not code:
        refuse_code(folder)
    if (folder / CONFIG).is_file():
        refuse_kernels(folder / CONFIG)
    if gguf_file:
        tensors, numbers = gguf_header.declared(folder / gguf_file)
        check_sizes(folder / gguf_file, numbers, tensors)
    else:
        if (folder / INDEX).exists():
            _check_index(folder / INDEX, complete=weights)
        tensors_there = _declared(folder) if weights else None
        if (folder / CONFIG).is_file():
            check_sizes(folder / CONFIG, read_json(folder / CONFIG), tensors_there)


def _check_kinds(folder: Path) -> None:
    """What could be read are files: nothing to hang on, nothing outside."""
    root = folder.resolve()
    allowed = (root, *_blobs(root))
    for number, path in enumerate((*folder.iterdir(), *(folder / _TEMPLATES).glob("*"))):
        if number == MOST_FILES:
            raise UsageError(
                f"{folder} has more than {MOST_FILES:,} files: it is refused. Name the folder of "
                "one model."
            )
        if path.is_symlink() and not (path.is_dir() and path.name != _TEMPLATES):
            target = Path(os.path.realpath(path))
            if not target.exists():
                raise UsageError(f"{path} is a link to nothing. Remove it, or put the file there.")
            if not any(target.is_relative_to(place) for place in allowed):
                raise UsageError(
                    f"{path} is a link out of the model's folder, to {target}: it is refused. Put "
                    "a copy of the file there, or name the folder that it lies in."
                )
        mode = path.stat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise UsageError(
                f"{path} is neither file nor folder ({_kind(mode)}): it is refused. Remove it."
            )


def _blobs(root: Path) -> Iterable[Path]:
    """Where the files of a snapshot in the hub's cache really are: models--x--y/blobs."""
    if root.parent.name == "snapshots" and root.parent.parent.name.startswith("models--"):
        yield root.parent.parent / "blobs"


def _kind(mode: int) -> str:
    kinds = {stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
    return kinds.get(stat.S_IFMT(mode), "a device")


def _check_text(folder: Path) -> None:
    limits = {"tokenizer.json": MOST_TOKENIZER_BYTES, "chat_template.jinja": MOST_TEMPLATE_BYTES}
    limits |= {
        path.relative_to(folder).as_posix(): MOST_TEMPLATE_BYTES
        for path in (folder / _TEMPLATES).glob("*")
    }
    for name, most in limits.items():
        path = folder / name
        if path.exists() and (size := path.stat().st_size) > most:
            raise UsageError(
                f"{path} has {size:,} bytes, more than the {most:,} it may have: it is refused. "
                "Download it again from a source you trust."
            )
    for name in ("tokenizer_config.json", "chat_template.json"):
        if (folder / name).is_file():
            written = len(str(read_json(folder / name).get("chat_template", "")))
            if written > MOST_TEMPLATE_BYTES:
                raise UsageError(
                    f"{folder / name}: chat_template has {written:,} characters, more than the "
                    f"{MOST_TEMPLATE_BYTES:,} it may have: it is refused. Write a shorter one."
                )


def _refuse_adapters(folder: Path) -> None:
    if (folder / "adapter_config.json").exists():
        raise UsageError(
            f"{folder / 'adapter_config.json'} makes this an adapter of another model, which would "
            "be loaded too: it is refused. Merge it first (merge_and_unload, then save_pretrained) "
            "and name the merged model."
        )


def _declared(folder: Path) -> Tensors | None:
    """What the weights hold; nothing if there are none. Pickled ones are never opened."""
    shards = sorted(folder.glob("*.safetensors"))
    if shards:
        return Tensors.total(safetensors_header.declared(shard) for shard in shards)
    pickled = sorted(path.name for path in folder.iterdir() if _PICKLED.fullmatch(path.name))
    if pickled:
        raise UsageError(
            f"{folder / pickled[0]} holds pickled weights, which can run code when they are read: "
            "it is refused, and there are no safetensors beside it. Convert it where nothing is at "
            "stake (the hub's Space safetensors/convert, or save_pretrained in a container), and "
            "name the folder with the safetensors."
        )
    return None


def _check_index(path: Path, *, complete: bool) -> None:
    """The index names files beside itself and no others."""
    shards = read_json(path).get("weight_map")
    if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()):
        raise UsageError(f"{path} has no weight_map of tensors to files. Download it again.")
    for name in sorted(set(shards.values())):
        if not _FLAT.fullmatch(name) or set(name) == {"."}:
            raise UsageError(
                f"{path}: weight_map names '{name[:120]}', which is no file beside it: it is "
                "refused. Download the model again from a source you trust."
            )
        if not name.endswith(".safetensors"):
            raise UsageError(
                f"{path}: weight_map names '{name[:120]}', which is not safetensors: it is "
                "refused. Convert the weights to safetensors."
            )
        if complete and not (path.parent / name).is_file():
            raise UsageError(
                f"{path}: weight_map names '{name[:120]}', which is not there. Download the model "
                "again."
            )
