"""Models in the format of OpenVINO, whose graph keeps what it remembers inside.

Conversion is that of transformers' own exporter, rounding that of NNCF.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor, nn
from transformers import PreTrainedModel

NAME = "OpenVINO"
FILE = "openvino_model.xml"
NEEDED = ("openvino", "nncf")
GROUPED = (4,)
"""Bits at which neighbours along a row share a scale."""
GROUPS: tuple[int, ...] = ()
"""How many may, if only some numbers are allowed."""


def convert(module: nn.Module, inputs: Mapping[str, Any], bits: int, group_size: int) -> Any:
    """The graph that takes any number of tokens after any number of earlier ones.

    Args:
        module: what transformers' exporter is to trace.
        inputs: what to trace it with.
        bits: of the weights: 16, 8 or 4.
        group_size: at four bits, how many neighbours along a row share a scale.
    """
    exporters = import_module("transformers.exporters")
    quantizer = None
    if bits < 16:
        nncf = import_module("nncf")
        modes, compression = nncf.CompressWeightsMode, exporters.NNCFWeightCompressionConfig
        # Layers whose rows do not come out even stay as they are, and `layers` names them.
        uneven = nncf.AdvancedCompressionParameters(
            group_size_fallback_mode=nncf.GroupSizeFallbackMode.IGNORE
        )
        quantizer = exporters.NNCFOpenVINOQuantizer(
            compression(mode=modes.INT8_ASYM)
            if bits == 8
            else compression(
                mode=modes.INT4_SYM, group_size=group_size, ratio=1.0, advanced_parameters=uneven
            )
        )
    half = bits == 16
    config = exporters.OpenVINOConfig(dynamic=True, quantizer=quantizer, compress_to_fp16=half)
    return exporters.OpenVINOExporter().export(module, dict(inputs), config)


def layers(
    program: Any, bits: int, model: PreTrainedModel, ids: Int[Tensor, "rows tokens"]
) -> dict[str, Any]:
    """How many weights have so many bits, and the names of all that have more than asked for."""
    names = _names(model, ids)
    counts: dict[str, int] = {}
    wider: dict[str, str] = {}
    for node in program.get_ordered_ops():
        if node.get_type_name() not in ("MatMul", "Gather"):
            continue
        for port in node.inputs():
            weight = _weight(port.get_source_output().get_node())
            if weight is None:
                continue
            kind = weight.get_output_element_type(0)
            matrix = sum(size > 1 for size in weight.get_output_shape(0)) > 1
            if not matrix or (kind.is_integral() and kind.bitwidth > 8):
                continue
            counts[kind.get_type_name()] = counts.get(kind.get_type_name(), 0) + 1
            if kind.bitwidth > bits:
                name = node.get_friendly_name().split("/")[0]
                wider[names.get(name, name)] = kind.get_type_name()
    return {"weights": counts, "wider": wider}


class Session:
    """An exported model on OpenVINO, and what it remembers.

    Args:
        folder: where its graph lies.
        threads: how many it may use; as many as it likes unless given.
        exact: compute in float32, and never round what enters a layer of few bits. With a single
            thread, processors with AMX compute in float32 in any case.
    """

    def __init__(self, folder: Path, threads: int | None, exact: bool) -> None:
        core = import_module("openvino").Core()
        asked: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
        if threads is not None:
            asked["INFERENCE_NUM_THREADS"] = threads
        if exact:
            asked |= dict.fromkeys(("INFERENCE_PRECISION_HINT", "KV_CACHE_PRECISION"), "f32")
            asked["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = "0"
        elif 1 in (threads, _processors()) and _multiplies_tiles(core):
            asked["INFERENCE_PRECISION_HINT"] = "f32"
        compiled = core.compile_model(folder / FILE, "CPU", asked)
        self._inputs = {name for port in compiled.inputs for name in port.get_names()}
        self._request = compiled.create_infer_request()

    def forget(self) -> None:
        """Begin a new text."""
        self._request.reset_state()

    def run(self, known: Mapping[str, np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
        """Logits of what comes next, by the names of the graph's inputs."""
        self._request.infer({name: known[name] for name in self._inputs if name in known})
        logits: np.ndarray[Any, Any] = self._request.get_tensor("logits").data.copy()
        return logits


def _processors() -> int:
    """How many this process may use."""
    allowed = getattr(os, "sched_getaffinity", None)
    return len(allowed(0)) if allowed else os.cpu_count() or 1


def _multiplies_tiles(core: Any) -> bool:
    """Whether bfloat16 may be multiplied by Intel's AMX, with which OpenVINO dies on one thread.

    It shares the products of a feed-forward network between halves of its threads, and divides by
    their number (seen with 2026.4, and reported as openvinotoolkit/openvino#33300). OpenVINO names
    no AMX; every processor that has it computes in float16, too.
    """
    return {"BF16", "FP16"} <= set(core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"))


def _names(model: PreTrainedModel, ids: Int[Tensor, "rows tokens"]) -> dict[str, str]:
    """What the graph calls the layers, which it numbers in the order of their calls."""
    names: dict[str, str] = {}
    counts: dict[type[nn.Module], int] = {nn.Linear: 0, nn.Embedding: 0}
    words: dict[type[nn.Module], str] = {nn.Linear: "linear", nn.Embedding: "embedding"}

    def note(name: str, kind: type[nn.Module]) -> Callable[..., None]:
        def called(*_: Any) -> None:
            names[f"{words[kind]}_{counts[kind]}"] = name
            counts[kind] += 1

        return called

    hooks = [
        module.register_forward_hook(note(name, kind))
        for name, module in model.named_modules()
        for kind in words
        if isinstance(module, kind)
    ]
    with torch.no_grad():
        model(input_ids=ids)
    for hook in hooks:
        hook.remove()
    return names


_PASSED = ("Convert", "Multiply", "Subtract", "Reshape", "Transpose")


def _weight(node: Any) -> Any:
    """The constant that a product of a layer is made from, or none."""
    while node.get_type_name() in _PASSED:
        node = node.input_value(0).get_node()
    return node if node.get_type_name() == "Constant" else None
