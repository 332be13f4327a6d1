"""Building graphs: names, scopes, types, shapes, errors, messages."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

import runtime
from runtime import wire
from runtime.dtypes import DataType
from runtime.errors import Error, FailedPrecondition, InvalidArgument, NotFound
from runtime.graph import initializers
from runtime.graph.builder import PRODUCER_VERSION
from runtime.graph.tensor import Operation, Tensor


@pytest.fixture
def graph() -> runtime.Graph:
    return runtime.Graph()


def _value(tensor: Any, feeds: dict[Any, Any] | None = None) -> Any:
    with runtime.Session(graph=tensor.graph) as session:
        return session.run(tensor, feeds)


# -- names and scopes ---------------------------------------------------------------------------------------------


def test_names_are_made_unique_without_regard_to_case(graph: runtime.Graph) -> None:
    names = [graph.constant(1, name=name).op.name for name in ("a", "a", "A", "a_1", "b")]
    assert names == ["a", "a_1", "A_2", "a_1_1", "b"]


def test_scopes_nest_and_are_unique(graph: runtime.Graph) -> None:
    with graph.name_scope("layer") as prefix:
        assert prefix == "layer/"
        first = graph.constant(1, name="w")
        with graph.name_scope("inner"):
            second = graph.constant(1, name="w")
    with graph.name_scope("layer"):
        third = graph.constant(1, name="w")
    with graph.name_scope(prefix):
        fourth = graph.constant(1, name="w")
    with graph.name_scope("outer"), graph.name_scope(None):
        fifth = graph.constant(1, name="w")
    assert [t.op.name for t in (first, second, third, fourth, fifth)] == [
        "layer/w", "layer/inner/w", "layer_1/w", "layer/w_1", "w"]


def test_constants_of_an_operation_stand_under_its_name(graph: runtime.Graph) -> None:
    x = graph.placeholder("float32", [2], name="x")
    result = graph.op("AddV2", x, 1.0, name="more")
    assert result.op.name == "more"
    assert [op.name for op in graph.operations] == ["x", "more/y", "more"]


@pytest.mark.parametrize("name", ["_x", "x y", "ä", "x:0"])
def test_bad_names_are_refused(graph: runtime.Graph, name: str) -> None:
    with pytest.raises(InvalidArgument, match="is not a node name"):
        graph.constant(1, name=name)


def test_control_dependencies_are_written_once_and_only_where_needed(graph: runtime.Graph) -> None:
    a, b = graph.no_op("a"), graph.no_op("b")
    with graph.control_dependencies([a, b]):
        first = graph.constant(1, name="first")
        with graph.control_dependencies([a]):
            second = graph.no_op("second")
        with graph.control_dependencies(None):
            third = graph.no_op("third")
        fourth = graph.identity(first, name="fourth")
    assert list(first.op.node.proto.input) == ["^a", "^b"]
    assert list(second.node.proto.input) == ["^a", "^b"]
    assert list(third.node.proto.input) == []
    assert list(fourth.op.node.proto.input) == ["first"]  # waits through its input


def test_devices_merge_from_outside_in(graph: runtime.Graph) -> None:
    with graph.device("/job:worker/task:1"):
        a = graph.no_op("a")
        with graph.device("/cpu:0"):
            b = graph.no_op("b")
        with graph.device("/task:2"):
            c = graph.no_op("c")
        with graph.device(None):
            d = graph.no_op("d")
    assert [op.device for op in (a, b, c, d)] == [
        "/job:worker/task:1", "/job:worker/task:1/device:CPU:0", "/job:worker/task:2", ""]
    with pytest.raises(InvalidArgument, match="'nonsense' is not a device"), graph.device("nonsense"):
        graph.no_op()


def test_colocation_is_an_attr(graph: runtime.Graph) -> None:
    a = graph.constant(1.0, name="a")
    with graph.colocate_with(a):
        b = graph.no_op("b")
    assert list(b.node.proto.attr["_class"].list.s) == [b"loc:@a"]


def test_scopes_belong_to_threads(graph: runtime.Graph) -> None:
    names: list[str] = []

    def build() -> None:
        names.append(graph.no_op("other").name)

    with graph.name_scope("mine"), graph.control_dependencies([graph.no_op("first")]):
        thread = threading.Thread(target=build)
        thread.start()
        thread.join(10)
    assert names == ["other"]
    assert not graph.operation("other").control_inputs


def test_threads_may_build_together(graph: runtime.Graph) -> None:
    def build() -> None:
        for _ in range(100):
            graph.add(graph.constant(1.0), 2.0)

    threads = [threading.Thread(target=build) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len({op.name for op in graph.operations}) == len(graph.operations) == 4 * 100 * 3


# -- types and attrs ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "kind"),
    [(1, DataType.INT32), (2**40, DataType.INT64), (1.5, DataType.FLOAT), (True, DataType.BOOL),
     ("a", DataType.STRING), (b"a", DataType.STRING), (1j, DataType.COMPLEX128), ([1, 2], DataType.INT32),
     (np.float64(1), DataType.DOUBLE),
     ([np.float64(1)], DataType.DOUBLE), (np.arange(3), DataType.INT64), (np.zeros(2, np.uint8), DataType.UINT8),
     ([], DataType.FLOAT)],
)
def test_constants_have_their_natural_type(graph: runtime.Graph, value: Any, kind: DataType) -> None:
    assert graph.constant(value).dtype is kind


def test_constants_follow_the_tensor(graph: runtime.Graph) -> None:
    x = graph.placeholder("float64", [2])
    assert (x + 1).dtype is DataType.DOUBLE
    assert (1 - x).dtype is DataType.DOUBLE
    assert (np.ones(2, np.float32) * x).dtype is DataType.DOUBLE
    assert (x > np.zeros(2, np.float32)).dtype is DataType.BOOL


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda g, x: g.op("MatMul", x, g.constant([[1]], name="ints")),
         r"Op MatMul \(node 'MatMul'\): input 'b' must be float \(as input 'a' is\), got tensor 'ints:0' of type "
         "int32"),
        (lambda g, x: g.op("AddV2", x, "text", name="sum"),
         r"Op AddV2 \(node 'sum'\): input 'y' must be float \(as input 'x' is\): str 'text' is of type string"),
        (lambda g, x: g.op("AddV2", x, name="sum"), r"Op AddV2 \(node 'sum'\) takes 2 inputs \(x, y\), got 1"),
        (lambda g, x: g.op("Relu", "text"), r"input 'features' cannot be string; expected one of: bfloat16, double"),
        (lambda g, x: g.op("AddN", x), r"input 'inputs' is a list of tensors, got <Tensor 'x:0'"),
        (lambda g, x: g.op("AddN", []), r"input 'inputs' needs at least 1 tensors, got 0"),
        (lambda g, x: g.op("ConcatV2", [x], 0), r"input 'values' needs at least 2 tensors, got 1"),
        (lambda g, x: g.op("AddN", [x, x], N=3), r"input 'inputs' has 2 tensors, but attr 'N' is 3"),
        (lambda g, x: g.op("MatMul", x, x, transposed=True),
         r"has no attr 'transposed'; its attrs: transpose_a, transpose_b"),
        (lambda g, x: g.op("MatMul", x, x, transpose_a=1), r"attr 'transpose_a' is a bool, got int 1"),
        (lambda g, x: g.conv2d(x, x, padding="ALL"), r"attr 'padding' cannot be ALL; allowed: EXPLICIT, SAME, VALID"),
        (lambda g, x: g.op("Cast", x), r"Op Cast \(node 'Cast'\) needs attr 'DstT' \(type\)"),
        (lambda g, x: g.op("MaxPool", x, ksize=[1], strides=[1, 1, 1, 1], padding="SAME"),
         r"attr 'ksize' needs at least 4 elements, got 1"),
        (lambda g, x: g.op("Assign", x, x), r"input 'ref' must be a reference to a variable, got tensor 'x:0'"),
        (lambda g, x: g.relu(runtime.Graph().constant(1.0)), r"tensor 'Const:0' belongs to another graph"),
        (lambda g, x: g.relu(None), r"must be a tensor or a constant, got NoneType None|is not a tensor"),
        (lambda g, x: g.relu(g.no_op()), r"got operation 'NoOp' \(op NoOp\), which is not a value|is not a tensor"),
        (lambda g, x: g.constant([1.5], "int32"), r"is of type float and cannot be a int32 tensor; cast it first"),
        (lambda g, x: g.constant([[1], [2, 3]]), r"is not a tensor"),
        (lambda g, x: g.constant([1, 2, 3], shape=[2]), r"3 elements do not fill shape \[2\]"),
        (lambda g, x: x["a"], r"index 0 is str 'a'"),
        (lambda g, x: x[g.constant([0, 1])], r"only scalars can be indices"),
        (lambda g, x: g.variable(g.placeholder("float32", [None]), name="v"),
         r"variable 'v': the initial value 'Placeholder:0' has static shape \[\?\]; it must be fully known"),
        (lambda g, x: g.matmul(g.constant([1.0]), x), r"input 'a' is tensor 'Const:0' of rank 1"),
    ],
)
def test_errors_name_op_input_expected_and_given(graph: runtime.Graph, build: Any, message: str) -> None:
    x = graph.placeholder("float32", [2, 2], name="x")
    with pytest.raises(InvalidArgument, match=message):
        build(graph, x)


def test_unknown_op_is_told(graph: runtime.Graph) -> None:
    with pytest.raises(NotFound, match="Op type not registered 'NoSuchOp'"):
        graph.op("NoSuchOp")


def test_impossible_shapes_are_told_with_node_and_shapes(graph: runtime.Graph) -> None:
    x, y = graph.placeholder("float32", [2, 3], name="x"), graph.placeholder("float32", [4], name="y")
    with pytest.raises(InvalidArgument, match=r"Op AddV2 \(node 'sum'\) with inputs of shape \[2,3\], \[4\]"):
        graph.add(x, y, name="sum")
    with pytest.raises(InvalidArgument, match=r"Op MatMul \(node 'product'\) with inputs of shape \[2,3\], \[2,3\]"):
        graph.matmul(x, x, name="product")
    with pytest.raises(InvalidArgument, match=r"6 values of shape \[2,3\] cannot be reshaped to \[4, -1\]"):
        graph.reshape(x, [4, -1])


def test_truth_of_a_tensor_is_refused(graph: runtime.Graph) -> None:
    x = graph.placeholder("float32", [2], name="x")
    with pytest.raises(TypeError, match="tensor Greater:0 has no truth value"):
        bool(x > 0)
    with pytest.raises(TypeError, match="first dimension is unknown"):
        list(graph.placeholder("float32", None))
    assert len(x) == 2
    assert [part.shape for part in x] == [(), ()]


def test_tensors_are_keys() -> None:
    graph = runtime.Graph()
    x, y = graph.constant(1.0), graph.constant(1.0)
    assert {x: 1, y: 2}[y] == 2
    assert x != y


# -- shapes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "shape"),
    [
        (lambda g, x: g.reshape(x, [-1, 2]), (None, 2)),
        (lambda g, x: g.reshape(x, g.stack([g.shape(x)[0], 6])), (None, 6)),
        (lambda g, x: g.zeros([2, 700]), (2, 700)),
        (lambda g, x: g.zeros(g.shape(x)), (None, 2, 3)),
        (lambda g, x: g.reduce_sum(x, 1), (None, 3)),
        (lambda g, x: g.reduce_sum(x, [-1, 1], keepdims=True), (None, 1, 1)),
        (lambda g, x: g.reduce_mean(x), ()),
        (lambda g, x: g.argmax(x, -1), (None, 2)),
        (lambda g, x: g.expand_dims(x, -1), (None, 2, 3, 1)),
        (lambda g, x: g.transpose(x, [2, 0, 1]), (3, None, 2)),
        (lambda g, x: g.transpose(x), (3, 2, None)),
        (lambda g, x: g.concat([x, x], 2), (None, 2, 6)),
        (lambda g, x: g.concat([x, x], 0), (None, 2, 3)),
        (lambda g, x: g.tile(x, [1, 2, 2]), (None, 4, 6)),
        (lambda g, x: g.pad(x, [[0, 0], [1, 1], [2, 0]]), (None, 4, 5)),
        (lambda g, x: g.slice(x, [0, 1, 0], [-1, 1, 2]), (None, 1, 2)),
        (lambda g, x: x[0], (2, 3)),
        (lambda g, x: x[..., 1:], (None, 2, 2)),
        (lambda g, x: x[:, None, ::2, -1], (None, 1, 1)),
        (lambda g, x: g.split(x, 3, axis=2)[0], (None, 2, 1)),
        (lambda g, x: g.split(x, [1, 2], axis=2)[1], (None, 2, 2)),
        (lambda g, x: g.gather(x, [[0, 1]], axis=1), (None, 1, 2, 3)),
        (lambda g, x: g.one_hot(g.constant([1, 2]), 5), (2, 5)),
        (lambda g, x: g.range(2, 9, 3), (3,)),
        (lambda g, x: g.range(g.shape(x)[0]), (None,)),
        (lambda g, x: g.top_k(x, 2)[1], (None, 2, 2)),
        (lambda g, x: g.random_uniform([4, 5]), (4, 5)),
        (lambda g, x: g.matmul(x, g.zeros([3, 7])), (None, 2, 7)),
        (lambda g, x: g.softmax(x), (None, 2, 3)),
        (lambda g, x: g.broadcast_to(x, [9, 2, 3]), (9, 2, 3)),
        (lambda g, x: g.stack([x, x], axis=1), (None, 2, 2, 3)),
        (lambda g, x: g.unstack(x, axis=1)[0], (None, 3)),
        (lambda g, x: g.squeeze(g.expand_dims(x, 0), 0), (None, 2, 3)),
        (lambda g, x: x * g.zeros([5, 1, 1]), (5, 2, 3)),
        (lambda g, x: g.variable(initializers.zeros, "v", shape=[3, 4]).value(), (3, 4)),
        (lambda g, x: g.conv2d(g.placeholder("float32", [None, 8, 8, 1]), g.zeros([3, 3, 1, 4]), 2), (None, 4, 4, 4)),
        (lambda g, x: g.max_pool(g.placeholder("float32", [None, 8, 8, 1]), 2, 2), (None, 4, 4, 1)),
    ],
)
def test_static_shapes(graph: runtime.Graph, build: Any, shape: tuple[int | None, ...]) -> None:
    made = build(graph, graph.placeholder("float32", [None, 2, 3], name="x"))
    assert made.shape == shape


def test_static_shapes_agree_with_values(graph: runtime.Graph) -> None:
    x = graph.constant(np.arange(24, dtype=np.float32).reshape(2, 3, 4))
    made = [x[..., 1:], x[:, None, ::2, -1], x[-1, 1], x[::-1, 5:], graph.reduce_max(x, [0, 2]), graph.transpose(x),
            graph.tile(x, [2, 1, 3]), graph.reshape(x, [4, -1]), graph.range(3, 10, 4), x[1:1]]
    with runtime.Session(graph=graph) as session:
        for tensor, value in zip(made, session.run(made)):
            assert tensor.shape == value.shape, tensor.name


def test_set_shape_adds_and_contradicts(graph: runtime.Graph) -> None:
    x = graph.placeholder("float32", [None, 3], name="x")
    x.set_shape([2, None])
    assert x.shape == (2, 3)
    with pytest.raises(InvalidArgument, match=r"tensor 'x:0' has static shape \[2,3\], which is not compatible"):
        x.set_shape([4, 3])


# -- values -------------------------------------------------------------------------------------------------------


def test_operators_compute_what_numpy_does(graph: runtime.Graph) -> None:
    a, b = np.array([[7.0, -3.0], [2.5, 4.0]]), np.array([[2.0, 2.0], [-1.5, 3.0]])
    x, y = graph.constant(a), graph.constant(b)
    pairs = [(x + y, a + b), (x - y, a - b), (x * y, a * b), (x / y, a / b), (x // y, a // b), (x % y, a % b),
             (abs(x) ** y, abs(a) ** b), (x @ y, a @ b), (-x, -a), (abs(x), abs(a)), (x < y, a < b), (x <= y, a <= b),
             (x > y, a > b), (x >= y, a >= b), (~(x > y), ~(a > b)), ((x > y) & (x > 0), (a > b) & (a > 0)),
             ((x > y) | (x > 0), (a > b) | (a > 0)), ((x > y) ^ (x > 0), (a > b) ^ (a > 0)), (2 ** x, 2 ** a),
             (a @ x, a @ a), (1 / x, 1 / a), (10 // y, 10 // b), (10 % y, 10 % b), (+x, a)]
    with runtime.Session(graph=graph) as session:
        for (tensor, wanted), found in zip(pairs, session.run([tensor for tensor, _ in pairs])):
            np.testing.assert_allclose(found, wanted, rtol=1e-12, err_msg=tensor.name)


def test_integer_division_gives_floats(graph: runtime.Graph) -> None:
    ratio = graph.constant([7, 8]) / 2
    assert ratio.dtype is DataType.DOUBLE
    np.testing.assert_array_equal(_value(ratio), [3.5, 4.0])


@pytest.mark.parametrize("key", [
    0, -1, (0, 1), slice(1, None), (slice(None, None, -1), 0), (Ellipsis, -1), (None, 1), (slice(0, 2), slice(1, 3)),
    (0, Ellipsis, None), (-2, -1), (slice(None, -1), slice(None, None, 2))])
def test_indexing_is_numpys(graph: runtime.Graph, key: Any) -> None:
    array = np.arange(24).reshape(2, 3, 4)
    np.testing.assert_array_equal(_value(graph.constant(array)[key]), array[key])


def test_indices_may_be_tensors(graph: runtime.Graph) -> None:
    array = np.arange(12).reshape(3, 4)
    at = graph.placeholder("int32", [])
    x = graph.constant(array)
    with runtime.Session(graph=graph) as session:
        row, block = session.run([x[at], x[at:, : at + 1]], {at: 1})
    np.testing.assert_array_equal(row, array[1])
    np.testing.assert_array_equal(block, array[1:, :2])


def test_lists_of_tensors_are_packed(graph: runtime.Graph) -> None:
    x = graph.placeholder("float32", [None, 6])
    with runtime.Session(graph=graph) as session:
        assert session.run(graph.reshape(x, [graph.shape(x)[0], 2, 3]), {x: np.zeros((4, 6))}).shape == (4, 2, 3)


def test_everyday_methods(graph: runtime.Graph) -> None:
    x = graph.constant([[1.0, -2.0, 3.0]])
    with runtime.Session(graph=graph) as session:
        mask = session.run(graph.boolean_mask(graph.constant([1, 2, 3]), [True, False, True]))
        clipped = session.run(graph.clip_by_value(x, -1.0, 2.0))
        hot = session.run(graph.one_hot([0, 2], 3))
        mean, variance = session.run(graph.moments(x, [1]))
        kept = session.run(graph.dropout(graph.ones([1000]), 0.25, seed=3))
        hits = session.run(graph.in_top_k([1], graph.constant([[0.1, 0.5, 0.4]]), 1))
        text = session.run(graph.constant("a") + "b")
    np.testing.assert_array_equal(mask, [1, 3])
    np.testing.assert_array_equal(clipped, [[1, -1, 2]])
    np.testing.assert_array_equal(hot, [[1, 0, 0], [0, 0, 1]])
    np.testing.assert_allclose((mean, variance), (np.array([2 / 3]), np.array([38 / 9])), rtol=1e-6)
    assert set(np.unique(kept)) == {np.float32(0), np.float32(1 / 0.75)}
    assert 0.65 < np.mean(kept > 0) < 0.85
    np.testing.assert_array_equal(hits, [True])
    assert text == b"ab"


# -- variables ----------------------------------------------------------------------------------------------------


def test_variables_emit_tensorflows_operations(graph: runtime.Graph) -> None:
    v = graph.variable([1.0, 2.0], name="v")
    assert [(op.name, op.type) for op in graph.operations] == [
        ("v/initial_value", "Const"), ("v", "VarHandleOp"),
        ("v/IsInitialized/VarIsInitializedOp", "VarIsInitializedOp"),
        ("v/Assign", "AssignVariableOp"), ("v/Read/ReadVariableOp", "ReadVariableOp")]
    assert v.handle.op.attr("shared_name") == b"v"
    assert graph.relu(v).op.inputs[0].op.name == "Relu/ReadVariableOp"


def test_variables_hold_and_change(graph: runtime.Graph) -> None:
    v = graph.variable([1.0, 2.0], name="v")
    with runtime.Session(graph=graph) as session:
        assert not session.run(v.is_initialized())
        with pytest.raises(FailedPrecondition, match="v"):
            session.run(v)
        session.run(graph.global_variables_initializer())
        session.run(v.assign_add([10.0, 10.0]))
        session.run(v.assign_sub([1.0, 0.0]))
        np.testing.assert_array_equal(session.run(v), [10.0, 12.0])
        session.run(v.assign([0.0, 0.5]))
        np.testing.assert_array_equal(session.run(v + 1.0), [1.0, 1.5])
        np.testing.assert_array_equal(session.run(v.gather([1, 1])), [0.5, 0.5])
    with pytest.raises(InvalidArgument, match="not compatible"):
        v.assign([1.0, 2.0, 3.0])


def test_reads_are_ordered_by_control_dependencies(graph: runtime.Graph) -> None:
    v = graph.variable(1.0, name="v")
    with graph.control_dependencies([v.assign(5.0)]):
        after = v.value()
    with runtime.Session(graph=graph) as session:
        session.run(graph.global_variables_initializer())
        assert session.run(after) == 5.0


def test_variables_made_under_dependencies_do_not_wait(graph: runtime.Graph) -> None:
    failing = graph.op("CheckNumerics", graph.constant(np.inf), message="boom").op
    with graph.control_dependencies([failing]):
        v = graph.variable(initializers.ones, "v", shape=[2])
    with runtime.Session(graph=graph) as session:
        session.run(v.initializer)
        np.testing.assert_array_equal(session.run(v), [1, 1])


@pytest.mark.parametrize(
    ("initializer", "mean", "deviation"),
    [(initializers.random_normal(1.0, 0.5), 1.0, 0.5), (initializers.random_uniform(-1.0, 1.0), 0.0, 3**-0.5),
     (initializers.truncated_normal(0.0, 1.0), 0.0, 0.8796), (initializers.glorot_uniform, 0.0, (2 / 300) ** 0.5),
     (initializers.glorot_normal, 0.0, (2 / 300) ** 0.5), (initializers.he_normal, 0.0, (2 / 100) ** 0.5),
     (initializers.he_uniform, 0.0, (2 / 100) ** 0.5), (initializers.constant(3.0), 3.0, 0.0)],
)
def test_initializers_have_their_moments(initializer: Any, mean: float, deviation: float) -> None:
    graph = runtime.Graph(seed=1)
    v = graph.variable(initializer, "v", shape=[100, 200])
    with runtime.Session(graph=graph) as session:
        session.run(v.initializer)
        value = session.run(v)
    assert abs(value.mean() - mean) < 0.03 * max(deviation, 1e-9) + 1e-9
    assert abs(value.std() - deviation) < 0.03 * deviation + 1e-9


def test_seeds_follow_tensorflows_rule() -> None:
    assert runtime.Graph().op_seeds(None) == (0, 0)
    assert runtime.Graph().op_seeds(3) == (87654321, 3)
    assert runtime.Graph(seed=5).op_seeds(3) == (5, 3)
    assert runtime.Graph(seed=0).op_seeds(0) == (0, 2**31 - 1)
    graph = runtime.Graph()
    draw = graph.random_uniform([2], seed=3)
    with runtime.Session(graph=graph) as session:  # what TensorFlow 2.21 draws for this seed
        np.testing.assert_array_equal(session.run(draw), np.float32([0.3869294, 0.36002624]))


# -- messages -----------------------------------------------------------------------------------------------------


def test_graph_def_tells_producer_and_only_given_attrs(graph: runtime.Graph) -> None:
    x = graph.placeholder("float32", None, name="x")
    graph.op("MatMul", x, x, transpose_a=True, transpose_b=False, name="m")
    graph_def = graph.as_graph_def()
    assert isinstance(graph_def, wire.GraphDef)
    assert graph_def.versions.producer == PRODUCER_VERSION
    assert not graph_def.versions.min_consumer
    assert sorted(graph_def.node[1].attr) == ["T", "transpose_a"]
    assert list(graph_def.node[1].input) == ["x", "x"]


def test_graph_def_since_a_version(graph: runtime.Graph) -> None:
    graph.no_op("a")
    version = graph.version
    graph.no_op("b")
    assert [node.name for node in graph.as_graph_def(version).node] == ["b"]


def test_import_keeps_nodes_and_takes_a_prefix(graph: runtime.Graph) -> None:
    x = graph.placeholder("float32", [2], name="x")
    with graph.control_dependencies([graph.no_op("first")]):
        graph.relu(x, name="y")
    message = graph.as_graph_def()
    reversed_nodes = wire.GraphDef(versions=message.versions)
    reversed_nodes.node.extend(reversed(message.node))
    other = runtime.Graph()
    other.import_graph_def(reversed_nodes.SerializeToString())
    other.import_graph_def(message, name="again")
    assert other.tensor("y:0").shape == (2,)
    assert {op.name for op in other.operations} >= {"x", "y", "again/x", "again/y"}
    assert [op.name for op in other.operation("again/y").control_inputs] == ["again/first"]
    (grad,) = other.gradients(other.tensor("y:0"), other.tensor("x:0"))
    assert grad is not None
    with pytest.raises(InvalidArgument, match="the graph has a node"):
        other.import_graph_def(message)


def test_import_refuses_what_is_not_a_graph(graph: runtime.Graph) -> None:
    missing = wire.GraphDef()
    missing.node.add(name="a", op="Identity").input.append("nowhere")
    with pytest.raises(InvalidArgument, match="Node 'a': Unknown input node 'nowhere'"):
        graph.import_graph_def(missing)
    cycle = wire.GraphDef()
    cycle.node.add(name="a", op="NoOp").input.append("^b")
    cycle.node.add(name="b", op="NoOp").input.append("^a")
    with pytest.raises(InvalidArgument, match="part of a cycle"):
        graph.import_graph_def(cycle)


def test_elements_are_found_by_name(graph: runtime.Graph) -> None:
    x = graph.placeholder("float32", [2], name="x")
    assert graph.tensor("x:0") is x
    assert graph.tensor("x") is x
    assert graph.operation("x") is x.op
    assert isinstance(x.op, Operation)
    assert isinstance(x, Tensor)
    with pytest.raises(NotFound, match="the graph has no node 'y'"):
        graph.tensor("y:0")
    with pytest.raises(NotFound, match=r"'x:1': node 'x' \(op Placeholder\) has 1 outputs"):
        graph.tensor("x:1")
    with pytest.raises(InvalidArgument, match="is not the name of a tensor"):
        graph.tensor("^x")
    y = graph.relu(x)
    assert x.consumers() == [y.op]


def test_finalized_graphs_do_not_grow(graph: runtime.Graph) -> None:
    graph.finalize()
    with pytest.raises(FailedPrecondition, match="graph is finalized and cannot take node 'Const'"):
        graph.constant(1)


def test_errors_are_the_packages_own(graph: runtime.Graph) -> None:
    with pytest.raises(Error):
        graph.constant([object()])
    with pytest.raises(ValueError, match="not a tensor"):
        graph.constant([object()])
