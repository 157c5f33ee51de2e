"""How big a model is, in parameters, on disk and in the work of one token."""

from __future__ import annotations

import copy
import logging
from collections import Counter
from math import prod
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import safe_open
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel

from nexus.quantization.linear import DynamicLinear, PackedLinear
from nexus.results import Size
from nexus.window import context_limit

_log = logging.getLogger(__name__)

CONTEXT = 1024
"""Tokens that the work of one is counted among, where the model reads as many."""

TYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I8": "int8"}
"""What safetensors call the types of weights."""


def size(model: PreTrainedModel, directory: Path | None = None, *, context: int = CONTEXT) -> Size:
    """Parameters counted once each, however often they are tied; bytes of all files it is saved in.

    A weight in few bits counts as one parameter, and its scale as none.

    Args:
        model: the model in memory.
        directory: where it lies on disk, if it does. The type is then that of its files.
        context: tokens that each attends to, for the FLOPs of one of them.
    """
    output = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    tables = (model.get_input_embeddings(), output)
    embeddings = {id(table.weight) for table in tables if table is not None}
    parameters = list(model.parameters())
    packed = sum(
        part.in_features * part.out_features
        for part in model.modules()
        if isinstance(part, PackedLinear | DynamicLinear)
    )
    dtypes = Counter[str]()
    for parameter in parameters:
        dtypes[_name(parameter.dtype)] += parameter.numel()
    return Size(
        parameters=packed + sum(parameter.numel() for parameter in parameters),
        parameters_without_embeddings=packed
        + sum(parameter.numel() for parameter in parameters if id(parameter) not in embeddings),
        bytes_on_disk=None if directory is None else bytes_on_disk(directory),
        flops_per_token=flops_per_token(model, context),
        dtype=_most(_stored(directory) if directory else Counter()) or _most(dtypes),
    )


def flops_per_token(model: PreTrainedModel, context: int = CONTEXT) -> float | None:
    """Floating-point operations of a forward pass, by token, when each attends to all of `context`.

    All matrix products and the head are counted, tied or not; looking an embedding up is not. They
    are counted by PyTorch's own counter on a hollow copy of the model, which has shapes but no
    weights, so that nothing is computed; of experts those that a token is sent to.

    Returns:
        The count, or nothing for a model of whose operations some depend on the numbers themselves.
    """
    config = copy.deepcopy(model.config)
    context = min(context, context_limit(config) or context)
    # The products written out, of which the counter knows all.
    plain = {"attn_implementation": "eager", "experts_implementation": "batched_mm"}
    try:
        with torch.device("meta"):
            hollow = cast(Any, type(model))._from_config(config, **plain)
            tokens = torch.zeros(1, context, dtype=torch.long)
            counter = FlopCounterMode(display=False)
            with counter, torch.no_grad():
                hollow.eval()(
                    input_ids=tokens, attention_mask=torch.ones_like(tokens), use_cache=False
                )
    except (RuntimeError, ValueError, TypeError) as error:
        _log.warning("FLOPs of a %s were not counted: %s", type(model).__name__, error)
        return None
    return float(counter.get_total_flops()) / context


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
