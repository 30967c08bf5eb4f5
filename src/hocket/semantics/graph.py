"""A BERT encoder as an ONNX graph, made from its weights: one text in, one vector out, matrices in 8 bits.

Written for one text at a time, so there is no padding and no mask: shapes are (tokens, width), attention's
(heads, tokens, width / heads). Weights are quantised per output column, symmetric; activations as they pass
(dynamic quantisation: Jacob et al., 2018). The first and last steps, normalisations and softmax stay in 32 bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]
HEADS = 12
EPSILON = 1e-12
OPSET = 20
ROWS, FACTORS = 127, 63
"the largest number in 8 bits: of a table's rows; of a factor, so that processors without VNNI add in 16 bits rightly"


def bert_graph(weights: Mapping[str, Array], *, exact: bool = False) -> bytes:
    """Return the graph, serialised: input `tokens` (n,) int64, output `vector` (width,) float32: the mean state.

    `exact` keeps every number in 32 bits: four times the size and twice the time. Raises KeyError where a weight is
    missing.
    """
    graph = _Graph(weights, exact)
    state = graph.embedded()
    layer = 0
    while f"encoder.layer.{layer}.output.dense.weight" in weights:
        state = graph.layer(state, f"encoder.layer.{layer}")
        layer += 1
    if layer == 0:
        raise KeyError("encoder.layer.0.output.dense.weight")
    graph.add("ReduceMean", state, graph.constant(np.array([0])), named="vector", keepdims=0)
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "bert",
            [helper.make_tensor_value_info("tokens", TensorProto.INT64, ["n"])],
            [helper.make_tensor_value_info("vector", TensorProto.FLOAT, [graph.width])],
            graph.constants,
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=10,
    )
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


class _Graph:
    """Nodes and constants under way; a method adds some steps and returns the name of what they yield."""

    def __init__(self, weights: Mapping[str, Array], exact: bool) -> None:
        self.weights, self.exact = weights, exact
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.width = weights["embeddings.word_embeddings.weight"].shape[1]

    def add(self, step: str, *inputs: str, named: str = "", **settings: Any) -> str:
        name = named or f"{step}.{len(self.nodes)}"
        self.nodes.append(helper.make_node(step, inputs, [name], **settings))
        return name

    def constant(self, values: Array) -> str:
        name = f"constant.{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def number(self, value: float) -> str:
        return self.constant(np.array(value, np.float32))

    def weight(self, name: str) -> str:
        return self.constant(self.weights[name].astype(np.float32))

    def normalised(self, state: str, name: str) -> str:
        scale, bias = self.weight(f"{name}.LayerNorm.weight"), self.weight(f"{name}.LayerNorm.bias")
        return self.add("LayerNormalization", state, scale, bias, axis=-1, epsilon=EPSILON)

    def embedded(self) -> str:
        """Words (in 8 bits, a scale a row) + places + the one segment, normalised: (n, width)."""
        words = self.words(self.weights["embeddings.word_embeddings.weight"].astype(np.float32))
        segment = self.weights["embeddings.token_type_embeddings.weight"][0]
        places = self.constant(self.weights["embeddings.position_embeddings.weight"] + segment)
        first, axis = self.constant(np.array([0])), self.constant(np.array([0]))
        state = self.add("Add", words, self.add("Slice", places, first, self.add("Shape", "tokens"), axis))
        return self.normalised(state, "embeddings")

    def words(self, table: Floats) -> str:
        if self.exact:
            return self.add("Gather", self.constant(table), "tokens")
        numbers, scales = _quantised(table, ROWS, axis=1)
        rows = self.add("Cast", self.add("Gather", self.constant(numbers), "tokens"), to=TensorProto.FLOAT)
        return self.add("Mul", rows, self.add("Gather", self.constant(scales), "tokens"))

    def layer(self, state: str, name: str) -> str:
        """Attention, then two dense steps with GELU between; each is added to what it read and normalised."""
        query, key, value = (self.heads(state, f"{name}.attention.self.{part}") for part in ("query", "key", "value"))
        nearness = self.add("MatMul", query, self.add("Transpose", key, perm=[0, 2, 1]))
        scaled = self.add("Mul", nearness, self.number((self.width // HEADS) ** -0.5))
        seen = self.add("MatMul", self.add("Softmax", scaled, axis=-1), value)
        joined = self.add("Reshape", self.add("Transpose", seen, perm=[1, 0, 2]), self.constant(np.array([0, -1])))
        told = self.dense(joined, f"{name}.attention.output.dense")
        state = self.normalised(self.add("Add", told, state), f"{name}.attention.output")
        inner = self.add("Gelu", self.dense(state, f"{name}.intermediate.dense"))
        outer = self.dense(inner, f"{name}.output.dense")
        return self.normalised(self.add("Add", outer, state), f"{name}.output")

    def heads(self, state: str, name: str) -> str:
        """A dense step, split by head: (heads, n, width / heads)."""
        shape = self.constant(np.array([0, HEADS, self.width // HEADS]))
        return self.add("Transpose", self.add("Reshape", self.dense(state, name), shape), perm=[1, 0, 2])

    def dense(self, state: str, name: str) -> str:
        """State @ weightᵀ + bias, the product in 8-bit integers."""
        matrix, bias = self.weights[f"{name}.weight"].astype(np.float32).T, self.weight(f"{name}.bias")
        if self.exact:
            return self.add("Add", self.add("MatMul", state, self.constant(matrix)), bias)
        numbers, scales = _quantised(matrix, FACTORS, axis=0)
        small, scale, zero = (f"{name}.{part}" for part in ("small", "scale", "zero"))
        self.nodes.append(helper.make_node("DynamicQuantizeLinear", [state], [small, scale, zero]))
        product = self.add("MatMulInteger", small, self.constant(numbers), zero)
        scaling = self.add("Mul", scale, self.constant(scales[0]))
        scaled = self.add("Mul", self.add("Cast", product, to=TensorProto.FLOAT), scaling)
        return self.add("Add", scaled, bias)


def _quantised(matrix: npt.NDArray[np.float32], most: int, axis: int) -> tuple[npt.NDArray[np.int8], Floats]:
    """Numbers in -most … most and their scales, one for each slice along `axis` (which keeps size 1)."""
    scales = np.maximum(np.abs(matrix).max(axis=axis, keepdims=True), 1e-12) / np.float32(most)
    return np.rint(matrix / scales).astype(np.int8), scales
