"""A graph with int8 weights gives the same after it was made to compute with them, but for rounding."""

from collections import Counter

import numpy as np
import numpy.typing as npt
import onnxruntime  # type: ignore[import-untyped]
import pytest
from onnx import ModelProto, TensorProto, checker, helper, numpy_helper

from penstock.search.encoding.graph import BLOCK, with_int8_arithmetic

ROWS, K, N = 50, 2 * BLOCK, 24

Floats = npt.NDArray[np.float32]


def made_up() -> ModelProto:
    """Rows of an int8 table, times an int8 matrix, plus the same rows times a float one."""
    chance = np.random.default_rng(7)
    arrays = {
        "table": chance.integers(-127, 128, (ROWS, K)).astype(np.int8),
        "table_scales": chance.uniform(0.001, 0.02, (ROWS, 1)).astype(np.float32),
        "matrix": chance.integers(-127, 128, (K, N)).astype(np.int8),
        "matrix_scales": chance.uniform(0.001, 0.02, (1, N)).astype(np.float32),
        "floats": chance.normal(0, 0.1, (K, N)).astype(np.float32),
    }
    nodes = []
    for name in ("table", "matrix"):
        nodes += [
            helper.make_node("Cast", [name], [f"{name}_cast"], to=TensorProto.FLOAT),
            helper.make_node("Mul", [f"{name}_cast", f"{name}_scales"], [f"{name}_floats"]),
        ]
    nodes += [
        helper.make_node("Gather", ["table_floats", "ids"], ["rows"], axis=0),
        helper.make_node("MatMul", ["rows", "matrix_floats"], ["one"]),
        helper.make_node("MatMul", ["rows", "floats"], ["other"]),
        helper.make_node("Add", ["one", "other"], ["sum"]),
    ]
    graph = helper.make_graph(
        nodes,
        "made_up",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["n"])],
        [helper.make_tensor_value_info("sum", TensorProto.FLOAT, ["n", N])],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def computed(model: ModelProto, ids: list[int]) -> Floats:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found: Floats = session.run(["sum"], {"ids": np.array(ids, np.int64)})[0]
    return found


@pytest.fixture
def changed() -> ModelProto:
    model = made_up()
    with_int8_arithmetic(model)
    return model


def test_it_is_a_graph_and_has_nothing_left_of_the_other(changed: ModelProto) -> None:
    checker.check_model(changed)
    assert Counter(node.op_type for node in changed.graph.node) == {
        "Gather": 2,
        "Cast": 1,
        "Mul": 1,
        "MatMulNBits": 1,
        "MatMul": 1,
        "Add": 1,
    }
    assert {each.name for each in changed.graph.initializer} == {
        "table",
        "table_scales",
        "matrix_blocks",
        "matrix_scales_blocks",
        "floats",
    }


def test_it_gives_the_same_but_for_rounding(changed: ModelProto) -> None:
    ids = list(range(ROWS))
    before, after = computed(made_up(), ids), computed(changed, ids)
    # A number is rounded to a 127th of the greatest of its block: half of that, at random, adds up as its root.
    assert np.abs(after - before).max() < 0.02 * np.abs(before).max()
    assert np.corrcoef(after.ravel(), before.ravel())[0, 1] > 0.9999


def test_a_row_is_the_same_alone_and_among_others(changed: ModelProto) -> None:
    together = computed(changed, list(range(ROWS)))
    for row in range(ROWS):
        assert np.array_equal(computed(changed, [row])[0], together[row])
