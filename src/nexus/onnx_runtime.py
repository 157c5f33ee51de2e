"""Models in the format of ONNX Runtime.

Conversion is that of transformers' own exporter, rounding that of ONNX Runtime. One graph reads a
prompt and continues it: what it remembers goes out of it and in again.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from contextlib import redirect_stdout
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import numpy as np
from jaxtyping import Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from nexus import onnx_graph
from nexus.errors import NexusError

NAME = "ONNX"
FILE = "model.onnx"
NEEDED = ("onnx", "onnxruntime", "onnxscript")
GROUPED = (8, 4)
"""Bits at which neighbours along a row share a scale."""
GROUPS = (16, 32, 64, 128, 256)
"""How many may, if only some numbers are allowed."""


def convert(module: nn.Module, inputs: Mapping[str, Any], bits: int, group_size: int) -> Any:
    """The graph that takes any number of tokens after any number of earlier ones.

    Args:
        module: what transformers' exporter is to trace.
        inputs: what to trace it with.
        bits: of the weights: 16, 8 or 4.
        group_size: how many neighbours along a row share a scale.
    """
    exporters = import_module("transformers.exporters")
    with redirect_stdout(io.StringIO()):  # torch.onnx prints each of its steps
        exported = exporters.OnnxExporter().export(
            module, dict(inputs), exporters.OnnxConfig(dynamic=True)
        )
    head = cast(Any, module).get_output_embeddings()
    name = next((name for name, part in module.named_modules() if part is head), None)
    onnx_graph.compress(exported.program, bits, group_size, name)
    return exported


def layers(
    program: Any, bits: int, model: PreTrainedModel, ids: Int[Tensor, "rows tokens"]
) -> dict[str, Any]:
    """How many weights have so many bits, and the names of all that have more than asked for."""
    return onnx_graph.layers(program, bits)


class Session:
    """An exported model on ONNX Runtime's CPU, and what it remembers.

    Args:
        folder: where its graph lies.
        threads: how many it may use; as many as it likes unless given.
        exact: never round what enters a layer of few bits.
    """

    def __init__(self, folder: Path, threads: int | None, exact: bool) -> None:
        self._runtime = import_module("onnxruntime")
        self._runtime.disable_telemetry_events()
        options = self._runtime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads or 0
        graph: str | bytes = str(folder / FILE)
        if exact:
            graph = _exactly(folder)
            options.add_session_config_entry(
                "session.model_external_initializers_file_folder_path", str(folder)
            )
        self._session = self._runtime.InferenceSession(
            graph, options, providers=["CPUExecutionProvider"]
        )
        self._inputs = {port.name: port for port in self._session.get_inputs()}
        self._outputs = [port.name for port in self._session.get_outputs()]
        self._kept = {name: name.replace("output.", "input.", 1) for name in self._outputs[1:]}
        shapes = {port.name: port.shape for port in self._session.get_outputs()}
        self._shapes = {kept: shapes[name] for name, kept in self._kept.items()}
        self._memory: dict[str, Any] = {}

    def forget(self) -> None:
        """Begin a new text."""
        self._memory = {}

    def run(self, known: Mapping[str, np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
        """Logits of what comes next, by the names of the graph's inputs.

        Raises:
            NexusError: the graph takes something else, too.
        """
        value = self._runtime.OrtValue.ortvalue_from_numpy
        memory = self._memory or self._empty(len(known["input_ids"]))
        given = {name: value(known[name]) for name in self._inputs if name in known} | memory
        if missing := sorted(self._inputs.keys() - given.keys()):
            raise NexusError(
                f"the exported graph takes {', '.join(missing)}, too, which nothing gives it. "
                "Please report the model's architecture"
            )
        found = self._session.run_with_ort_values(self._outputs, given)
        named = dict(zip(self._outputs, found, strict=True))
        self._memory = {kept: named[name] for name, kept in self._kept.items()}
        logits: np.ndarray[Any, Any] = named["logits"].numpy()
        return logits

    def _empty(self, rows: int) -> dict[str, Any]:
        """A memory of nothing: sides that grow are 0 long."""
        types = {"tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(bool)": np.bool_}
        return {
            name: self._runtime.OrtValue.ortvalue_from_numpy(
                np.zeros(
                    [rows, *(side if isinstance(side, int) else 0 for side in shape[1:])],
                    types[self._inputs[name].type],
                )
            )
            for name, shape in self._shapes.items()
        }


def _exactly(folder: Path) -> bytes:
    """The graph without leave to round what enters a layer; its weights stay where they are."""
    model = import_module("onnx").load(folder / FILE, load_external_data=False)
    for node in model.graph.node:
        for attribute in [each for each in node.attribute if each.name == "accuracy_level"]:
            node.attribute.remove(attribute)
    graph: bytes = model.SerializeToString()
    return graph
