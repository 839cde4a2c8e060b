"""A graph whose weights are kept as int8, made into one that computes with them as they are.

The export keeps a matrix as int8 with a scale a column, and makes it float when it is loaded: `MatMul(x, Cast(q) × s)`.
`MatMulNBits`, an operator of onnxruntime's, takes the int8 numbers themselves, and rounds what it multiplies them with
to int8, too: BLOCK numbers of a row at a time, each block on a scale of its own. So a text's vector does not depend on
what it is encoded with, as it would by the operators that have one scale for all (`DynamicQuantizeLinear`). Where a
processor cannot do it so, onnxruntime computes the same product with floats.

Rows that are looked up in an int8 table are made float one by one, instead of the whole table.
"""

from dataclasses import dataclass

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

# With 16, 32, 64, 128 the vectors of 800 product titles have a cosine of .9996, .9991, .9988, .9978 or more to those
# by floats, and a query takes 1.61, 1.51, 1.36, 1.44 ms, by floats 3.04 (one thread of two cores with AVX-512). With
# 128 a text's vector is not quite the same in a batch. One product for query, key and value was no faster than three.
BLOCK = 64
ZERO = 128  # the operator takes bytes, of which this one is 0
INT8 = 4  # the operator's `accuracy_level`


@dataclass(frozen=True, slots=True)
class _Weights:
    """Names of what the graph keeps: int8 numbers, and what they are multiplied with."""

    numbers: str
    scales: str


def with_int8_arithmetic(model: ModelProto) -> None:
    """Changes `model` in place: each product with an int8 matrix, and each look-up in an int8 table."""
    graph = model.graph
    kept = {each.name: each for each in graph.initializer}
    weights = _weights(graph, kept)
    nodes: list[NodeProto] = []
    for node in graph.node:
        if node.op_type == "MatMul" and node.input[1] in weights:
            of = weights[node.input[1]]
            nodes.append(_product(node, of, kept))
        elif node.op_type == "Gather" and node.input[0] in weights:
            nodes += _looked_up(node, weights[node.input[0]])
        else:
            nodes.append(node)
    _keep_what_is_used(graph, nodes, kept)
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))


def _weights(graph: GraphProto, kept: dict[str, TensorProto]) -> dict[str, _Weights]:
    """By the name of the float matrix that is made of them."""
    casts = {
        node.output[0]: node.input[0]
        for node in graph.node
        if node.op_type == "Cast" and node.input[0] in kept and kept[node.input[0]].data_type == TensorProto.INT8
    }
    return {
        node.output[0]: _Weights(casts[node.input[0]], node.input[1])
        for node in graph.node
        if node.op_type == "Mul" and node.input[0] in casts and node.input[1] in kept
    }


def _product(node: NodeProto, weights: _Weights, kept: dict[str, TensorProto]) -> NodeProto:
    """`node` with the int8 matrix (k, n), which is kept as the operator wants it: (n, blocks, BLOCK) bytes."""
    numbers = numpy_helper.to_array(kept[weights.numbers])
    scales = numpy_helper.to_array(kept[weights.scales])
    k, n = numbers.shape
    blocks = k // BLOCK
    shifted = (numbers.T.astype(np.int16) + ZERO).astype(np.uint8).reshape(n, blocks, BLOCK)
    made = _Weights(f"{weights.numbers}_blocks", f"{weights.scales}_blocks")
    kept[made.numbers] = numpy_helper.from_array(shifted, made.numbers)
    kept[made.scales] = numpy_helper.from_array(np.repeat(scales.reshape(n, 1), blocks, axis=1), made.scales)
    return helper.make_node(
        "MatMulNBits",
        [node.input[0], made.numbers, made.scales],
        [*node.output],
        domain="com.microsoft",
        K=k,
        N=n,
        bits=8,
        block_size=BLOCK,
        accuracy_level=INT8,
    )


def _looked_up(node: NodeProto, weights: _Weights) -> list[NodeProto]:
    """`node` as two look-ups, of rows of numbers and of their scales, and their product."""
    (found,) = node.output
    numbers, scales, floats = f"{found}_numbers", f"{found}_scales", f"{found}_floats"
    return [
        helper.make_node("Gather", [weights.numbers, node.input[1]], [numbers], axis=0),
        helper.make_node("Gather", [weights.scales, node.input[1]], [scales], axis=0),
        helper.make_node("Cast", [numbers], [floats], to=TensorProto.FLOAT),
        helper.make_node("Mul", [floats, scales], [found]),
    ]


def _keep_what_is_used(graph: GraphProto, nodes: list[NodeProto], kept: dict[str, TensorProto]) -> None:
    used = {each.name for each in graph.output}
    alive: list[NodeProto] = []
    for node in reversed(nodes):  # they stand in the order in which they are computed
        if used.intersection(node.output):
            alive.append(node)
            used.update(node.input)
    del graph.node[:]
    graph.node.extend(reversed(alive))
    del graph.initializer[:]
    graph.initializer.extend(tensor for name, tensor in kept.items() if name in used)
