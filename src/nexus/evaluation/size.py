"""How big a model is, in parameters and on disk."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from transformers import PreTrainedModel

from nexus.results import Size


def size(model: PreTrainedModel, directory: Path | None = None) -> Size:
    """Parameters counted once each, however often they are tied; bytes of all files it is saved in.

    Args:
        model: the model in memory.
        directory: where it lies on disk, if it does.
    """
    output = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    tables = (model.get_input_embeddings(), output)
    embeddings = {id(table.weight) for table in tables if table is not None}
    parameters = list(model.parameters())
    dtypes = Counter[str]()
    for parameter in parameters:
        dtypes[str(parameter.dtype).removeprefix("torch.")] += parameter.numel()
    return Size(
        parameters=sum(parameter.numel() for parameter in parameters),
        parameters_without_embeddings=sum(
            parameter.numel() for parameter in parameters if id(parameter) not in embeddings
        ),
        bytes_on_disk=None if directory is None else bytes_on_disk(directory),
        dtype=dtypes.most_common(1)[0][0],
    )


def bytes_on_disk(directory: Path) -> int:
    """Bytes of every file below `directory`, links followed (the hub's cache is made of them)."""
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
