"""What becomes of an ONNX graph's weights: the graph still answers, and says what it holds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from nexus.onnx_graph import compress, layers

ir = pytest.importorskip("onnx_ir")
onnxruntime = pytest.importorskip("onnxruntime")

WORDS, WIDTH, OUT = 96, 64, 48
TABLE = np.random.default_rng(0).normal(size=(WORDS, WIDTH)).astype(np.float32)
MATRIX = np.random.default_rng(1).normal(size=(WIDTH, WIDTH)).astype(np.float32)
VECTOR = np.random.default_rng(2).normal(size=WIDTH).astype(np.float32)
IDS = np.arange(12).reshape(2, 6)


def node(kind: str, inputs: list[Any], name: str | None = None, **attributes: Any) -> Any:
    scopes = {"pkg.torch.onnx.name_scopes": str(["", name, "call"])} if name else {}
    made = ir.node(kind, inputs, attributes, metadata_props=scopes)
    made.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    return made


def weight(name: str, array: Any) -> Any:
    tensor = ir.tensor(array, name=name)
    return ir.Value(
        name=name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor
    )


def tied() -> Any:
    """Embedding, one layer with a vector to add, and a head that is the embedding."""
    ids = ir.Value(name="ids", shape=ir.Shape([2, 6]), type=ir.TensorType(ir.DataType.INT64))
    table, matrix, vector = (
        weight(name, array)
        for name, array in (("table", TABLE), ("matrix", MATRIX), ("vector", VECTOR))
    )
    flat = weight("flat", np.array([12, WIDTH]))
    found = node("Gather", [table, ids], "embedding")
    rows = node("Reshape", [found.outputs[0], flat])
    layer = node("Gemm", [rows.outputs[0], matrix, vector], "layer")
    turned = node("Transpose", [table], perm=[1, 0])
    head = node("MatMul", [layer.outputs[0], turned.outputs[0]], "head")
    head.outputs[0].name, head.outputs[0].shape = "logits", ir.Shape([12, WORDS])
    graph = ir.Graph(
        [ids], head.outputs, nodes=[found, rows, layer, turned, head],
        initializers=[table, matrix, vector, flat], opset_imports={"": 20},
    )  # fmt: skip
    return ir.Model(graph, ir_version=10)


def answer(model: Any) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"ids": IDS})[0]


def away(found: Any, table: Any = TABLE, matrix: Any = MATRIX) -> float:
    own = (table[IDS.ravel()] @ matrix + VECTOR) @ table.T
    return float(np.linalg.norm(found - own) / np.linalg.norm(own))


def test_sixteen_bits_are_float16_read_as_float32() -> None:
    model = tied()
    compress(model, 16, 32, "head")
    halves = [array.astype(np.float16).astype(np.float32) for array in (TABLE, MATRIX)]
    assert away(answer(model), *halves) < 1e-5 < away(answer(model))
    assert layers(model, 16) == {"weights": {"f16": 3}, "wider": {}}


@pytest.mark.parametrize(("bits", "least", "most"), [(8, 1e-3, 2e-2), (4, 2e-2, 3e-1)])
def test_few_bits_answer_nearly_alike(bits: int, least: float, most: float) -> None:
    model = tied()
    compress(model, bits, 32, "head")
    assert least < away(answer(model)) < most
    assert not [each for each in model.graph if each.op_type in ("MatMul", "Gemm", "Gather")]


def test_a_tied_head_is_the_embedding_in_eight_bits_and_is_stored_once() -> None:
    model = tied()
    compress(model, 4, 32, "head")
    assert layers(model, 4) == {
        "weights": {"u8": 2, "u4": 1},
        "wider": {"embedding": "u8", "head": "u8"},
    }
    codes = [name for name in model.graph.initializers if name.endswith("codes")]
    assert sorted(codes) == ["matrix.codes", "table.codes"]


def test_an_embedding_that_groups_do_not_make_up_stays_and_is_named() -> None:
    model = tied()
    compress(model, 8, 128, "head")
    assert layers(model, 8) == {"weights": {"f16": 1, "u8": 2}, "wider": {"embedding": "f16"}}
    assert away(answer(model)) < 2e-2
