"""Models from the hub, brought into its cache file by file so that they can be looked at first."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from huggingface_hub import snapshot_download

from nexus.errors import UsageError
from nexus.inspection.folder import INDEX, inspect
from nexus.inspection.json_file import read_json

SETTINGS = ("*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken")
"""Everything but weights and code."""

_UNUSED = ["*/*.json", "*/*.txt", "*/*.model"]
"""Folders within a repository hold the same model for other programs."""


@lru_cache(maxsize=16)
def snapshot(
    name: str,
    revision: str | None = None,
    gguf_file: str | None = None,
    *,
    weights: bool = False,
    code: bool = False,
    ignore_code: bool = False,
) -> Path:
    """The folder in the hub's cache that holds a model, fetched as far as needed and inspected.

    Settings are fetched and inspected first, weights only then. Pickled weights never are.

    Args:
        name: The model on the hub.
        revision: A branch, tag or commit; the main branch if none is given.
        gguf_file: The weights, where they are a GGUF file.
        weights: Whether the weights are needed.
        code: Whether the model's Python code is needed, and may run.
        ignore_code: Whether settings may name code, which is not going to run.

    Raises:
        UsageError: What is there is refused, or holds no weights.
        OSError: It cannot be had.
    """
    wanted = [*SETTINGS, *(("*.py",) if code else ())]
    here = Path(
        snapshot_download(name, revision=revision, allow_patterns=wanted, ignore_patterns=_UNUSED)
    )
    may_name_code = code or ignore_code
    if not (weights or gguf_file):
        inspect(here, code=may_name_code)
        return here
    if not gguf_file:
        inspect(here, weights=False, code=may_name_code)
    files = [gguf_file] if gguf_file else _shards(here)
    here = Path(snapshot_download(name, revision=here.name, allow_patterns=files))
    if absent := [file for file in files if not (here / file).is_file()]:
        raise UsageError(
            f"Model '{name}' has no {absent[0]} on the hub. Nexus reads safetensors and GGUF; "
            "pickled weights (pytorch_model.bin) can run code and are refused. Convert them first "
            "(the hub's Space safetensors/convert), or name another model."
        )
    inspect(here, gguf_file=gguf_file, code=may_name_code)
    return here


def _shards(here: Path) -> list[str]:
    if not (here / INDEX).is_file():
        return ["model.safetensors"]
    return sorted(set(read_json(here / INDEX)["weight_map"].values()))
