"""The weights of an ONNX graph in few bits: ONNX Runtime rounds them, and its own layers read them.

A layer's grid lies along its rows, a scale and a zero point for every group of neighbours. The
embedding and the head have eight bits where the rest has four, and are one matrix if they are tied.
"""

from __future__ import annotations

import logging
from ast import literal_eval
from importlib import import_module
from typing import Any

import numpy as np

_SCOPES = "pkg.torch.onnx.name_scopes"
_CONTRIBUTED = "com.microsoft"
_INT8_INSIDE = 4
"""The accuracy level at which what enters a layer is rounded to eight bits, too, block by block."""


def compress(model: Any, bits: int, group_size: int, head: str | None) -> None:
    """Store the weights of an `onnx_ir.Model` in so many bits, in place.

    Products with a matrix and embeddings are rounded below 16 bits, and every other matrix is kept
    in float16, to be read as float32.

    Args:
        model: as the exporter made it.
        bits: 16, 8 or 4.
        group_size: how many neighbours along a row share a scale: a power of two, 16 to 256.
        head: the name of the layer that makes logits.
    """
    if bits < 16:
        model.opset_imports[_CONTRIBUTED] = 1
        rounding = _Rounding(model.graph, group_size)
        for node in list(model.graph):
            name = _layer(node)
            if name is None:
                continue
            if node.op_type == "Gemm":
                node = _without_addition(model.graph, node)
            if node.op_type == "MatMul":
                rounding.product(node, 8 if name == head else bits)
            elif node.op_type == "Gather":
                rounding.embedding(node)
    import_module("onnx_ir.passes.common").RemoveUnusedNodesPass()(model)
    _halve(model.graph)


def layers(model: Any, bits: int) -> dict[str, Any]:
    """How many weights have so many bits, and the names of all that have more than asked for."""
    counts: dict[str, int] = {}
    wider: dict[str, str] = {}
    for node in model.graph:
        name = _layer(node)
        if name is None or node.op_type in _PASSED:
            continue
        if node.op_type in ("MatMulNBits", "GatherBlockQuantized"):
            width = int(node.attributes["bits"].value)
            found = [(width, f"u{width}")]
        else:
            found = [(16, "f16") for value in node.inputs if _is_matrix(_source(value))]
        for width, kind in found:
            counts[kind] = counts.get(kind, 0) + 1
            if width > bits:
                wider[name] = kind
    return {"weights": counts, "wider": wider}


class _Rounding:
    """Puts ONNX Runtime's layers of few bits in the place of a graph's products and embeddings."""

    def __init__(self, graph: Any, group_size: int) -> None:
        self._graph, self._group_size = graph, group_size
        self._rounded: dict[tuple[str, bool, int], list[Any]] = {}

    def product(self, node: Any, bits: int) -> None:
        """A product of what comes with a matrix of `inputs` rows and `outputs` columns."""
        value = node.inputs[1]
        weight, turned = _source(value), _is_turned(value)
        if not _is_matrix(weight) or len(weight.shape) != 2:
            return
        inputs, outputs = reversed(weight.shape) if turned else weight.shape
        self._replace(
            node,
            "MatMulNBits",
            [node.inputs[0], *self._stored(weight, turned, bits)],
            {
                "K": int(inputs),
                "N": int(outputs),
                "bits": bits,
                "block_size": self._group_size,
                "accuracy_level": _INT8_INSIDE,
            },
        )

    def embedding(self, node: Any) -> None:
        """Rows of a matrix, in eight bits; a row that groups do not make up stays as it is."""
        weight = node.inputs[0]
        if not _is_matrix(weight) or len(weight.shape) != 2 or weight.shape[1] % self._group_size:
            return
        codes, *rest = self._stored(weight, True, 8)
        rows = _ir().node("Reshape", [codes, self._constant("rows", np.array([0, -1]))])
        self._graph.insert_before(node, rows)
        self._replace(
            node,
            "GatherBlockQuantized",
            [rows.outputs[0], node.inputs[1], *rest],
            {"bits": 8, "block_size": self._group_size, "gather_axis": 0, "quantize_axis": 1},
        )

    def _replace(self, node: Any, kind: str, inputs: list[Any], attributes: dict[str, int]) -> None:
        _exchange(
            self._graph,
            node,
            _ir().node(
                kind, inputs, attributes, domain=_CONTRIBUTED, metadata_props=node.metadata_props
            ),
        )

    def _stored(self, weight: Any, turned: bool, bits: int) -> list[Any]:
        """Codes, scales and zero points of a matrix, once for all that read it."""
        key = (weight.name, turned, bits)
        if key not in self._rounded:
            library = _quantizers()
            config = library.DefaultWeightOnlyQuantConfig(block_size=self._group_size, bits=bits)
            matrix = weight.const_value.numpy()
            found = library.DefaultWeightOnlyQuantizer(config).qbits_block_quant(
                np.ascontiguousarray(matrix.T if turned else matrix)
            )
            names = ("codes", "scales", "zero_points")
            self._rounded[key] = [
                self._constant(f"{weight.name}.{name}", array)
                for name, array in zip(names, found, strict=True)
            ]
        return self._rounded[key]

    def _constant(self, name: str, array: Any) -> Any:
        return _constant(self._graph, name, array)


def _halve(graph: Any) -> None:
    """Store every matrix of float32 as float16, and read it as float32."""
    ir = _ir()
    for weight in [value for value in graph.initializers.values() if _is_matrix(value)]:
        half = weight.const_value.numpy().astype(np.float16)
        cast = ir.node(
            "Cast", [_constant(graph, f"{weight.name}.half", half)], {"to": ir.DataType.FLOAT}
        )
        cast.outputs[0].shape, cast.outputs[0].type = weight.shape, weight.type
        weight.replace_all_uses_with(cast.outputs[0])
        graph.insert_before(graph[0], cast)
        graph.initializers.pop(weight.name)


def _without_addition(graph: Any, node: Any) -> Any:
    """The product of a layer whose vector is added in the same step, made a step of its own."""
    asked = {name: attribute.value for name, attribute in node.attributes.items()}
    if asked.get("alpha", 1) != 1 or asked.get("beta", 1) != 1 or asked.get("transA", 0):
        return node
    ir = _ir()
    left, right, *added = node.inputs
    if asked.get("transB", 0):
        turn = ir.node("Transpose", [right], {"perm": [1, 0]})
        graph.insert_before(node, turn)
        right = turn.outputs[0]
    product = ir.node("MatMul", [left, right], metadata_props=node.metadata_props)
    if not added or added[0] is None:
        _exchange(graph, node, product)
        return product
    graph.insert_before(node, product)
    _exchange(graph, node, ir.node("Add", [product.outputs[0], added[0]]))
    return product


def _exchange(graph: Any, node: Any, new: Any) -> None:
    """Put a node in the place of another, whose output is from now on that of the new one."""
    _ir().convenience.replace_nodes_and_values(
        graph, node, [node], [new], node.outputs, new.outputs
    )


def _constant(graph: Any, name: str, array: Any) -> Any:
    ir = _ir()
    if name in graph.initializers:
        return graph.initializers[name]
    tensor = ir.tensor(array, name=name)
    value = ir.Value(
        name=name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor
    )
    graph.register_initializer(value)
    return value


def _layer(node: Any) -> str | None:
    """The name of the module that a node comes from, or none."""
    scopes = literal_eval(node.metadata_props.get(_SCOPES, "[]"))
    return scopes[-2] if len(scopes) > 1 else None


_PASSED = ("Cast", "Transpose", "Reshape")


def _source(value: Any) -> Any:
    """The constant that a value is, but for its type and its order, or none."""
    while value is not None and (node := value.producer()) is not None:
        if node.op_type not in _PASSED:
            return None
        value = node.inputs[0]
    return value if value is not None and value.is_initializer() else None


def _is_turned(value: Any) -> bool:
    node = value.producer()
    return node is not None and node.op_type == "Transpose"


def _is_matrix(value: Any) -> bool:
    """Whether a value is a constant of floats with two long sides."""
    return (
        value is not None
        and value.is_initializer()
        and value.dtype in (_ir().DataType.FLOAT, _ir().DataType.FLOAT16)
        and sum(int(size) > 1 for size in value.shape) > 1
    )


def _quantizers() -> Any:
    """ONNX Runtime's, whose import would set up the logging of the whole process."""
    root, silent = logging.getLogger(), logging.NullHandler()
    root.addHandler(silent)
    try:
        return import_module("onnxruntime.quantization.matmul_nbits_quantizer")
    finally:
        root.removeHandler(silent)


def _ir() -> Any:
    return import_module("onnx_ir")
