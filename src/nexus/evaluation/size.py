"""How big a model is, in parameters and on disk."""

from __future__ import annotations

from collections import Counter
from math import prod
from pathlib import Path

import torch
from safetensors import safe_open
from transformers import PreTrainedModel

from nexus.results import Size

TYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I8": "int8"}
"""What safetensors call the types of weights."""


def size(model: PreTrainedModel, directory: Path | None = None) -> Size:
    """Parameters counted once each, however often they are tied; bytes of all files it is saved in.

    Args:
        model: the model in memory.
        directory: where it lies on disk, if it does. The type is then that of its files.
    """
    output = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    tables = (model.get_input_embeddings(), output)
    embeddings = {id(table.weight) for table in tables if table is not None}
    parameters = list(model.parameters())
    dtypes = Counter[str]()
    for parameter in parameters:
        dtypes[_name(parameter.dtype)] += parameter.numel()
    return Size(
        parameters=sum(parameter.numel() for parameter in parameters),
        parameters_without_embeddings=sum(
            parameter.numel() for parameter in parameters if id(parameter) not in embeddings
        ),
        bytes_on_disk=None if directory is None else bytes_on_disk(directory),
        dtype=_most(_stored(directory) if directory else Counter()) or _most(dtypes),
    )


def bytes_on_disk(directory: Path) -> int:
    """Bytes of every file below `directory`, links followed (the hub's cache is made of them).

    A model card and what is hidden are none of the model. A student that is measured again, since
    the process died afterwards, may have one by then, or half of one.
    """
    files = (path for path in directory.rglob("*") if not path.name.startswith((".", "README.md")))
    return sum(path.stat().st_size for path in files if path.is_file())


def _stored(directory: Path) -> Counter[str]:
    """Weights by type, as the safetensors files have them; their headers are read alone."""
    found = Counter[str]()
    for path in directory.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - it is no dictionary
                part = file.get_slice(name)
                found[TYPES.get(part.get_dtype(), part.get_dtype())] += prod(part.get_shape())
    return found


def _most(dtypes: Counter[str]) -> str:
    return dtypes.most_common(1)[0][0] if dtypes else ""


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
