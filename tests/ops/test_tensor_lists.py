"""Lists of tensors as values: what sharing, the wire and hostile inputs do to them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime import wire
from runtime._ext.errors import InvalidArgument, ResourceExhausted
from runtime._ext.tensor_codec import decode_tensor, encode_tensor
from runtime.dtypes import DataType
from runtime.ops.state.tensor_array import MAX_ELEMENTS
from runtime.ops.tensor_lists import list_of
from runtime.ops.values.tensor_list import TYPE_NAME, TensorList
from tests.ops.case import array
from tests.ops.cases.tensor_lists import ANY, ROWS, TWO, Graph, ints
from tests.ops.kernel_runner import KernelRunner
from tests.peers import run_peer

F = DataType.FLOAT
STEP = st.one_of(
    st.tuples(st.just("push"), st.integers(0, 99)),
    st.tuples(st.just("pop"), st.just(0)),
    st.tuples(st.just("resize"), st.integers(0, 200)),
    st.tuples(st.just("set"), st.integers(0, 199)),
    st.tuples(st.just("extend"), st.just(0)),
    st.tuples(st.just("back"), st.integers(0, 9)),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(STEP, max_size=30), st.integers(0, 130))
def test_a_list_is_what_was_done_to_it_and_never_changes(steps: list[tuple[str, int]], length: int) -> None:
    start = list(range(length))
    versions: list[tuple[TensorList, list[Any]]] = [(TensorList(F, None, start), start)]
    for what, number in steps:
        made, model = versions[-1]
        model = model.copy()
        if what == "push":
            made = made.push(number)
            model.append(number)
        elif what == "pop" and model:
            made = made.pop()
            model.pop()
        elif what == "resize":
            made = made.resize(number)
            model = [*model[:number], *[None] * (number - len(model))]
        elif what == "set" and number < len(model):
            made = made.set(number, number)
            model[number] = number
        elif what == "extend" and len(model) < 500:
            made = made.extend(made)
            model += model
        elif what == "back":
            made, model = versions[number % len(versions)]
        versions.append((made, model))
    for made, model in versions:
        assert made.length == len(model)
        assert list(made.elements()) == model
        assert [made.get(index) for index in range(len(model))] == model


def lists() -> dict[str, TensorList]:
    strings = np.array([b"a", b"", b"\xff\x00"], object)
    inner = TensorList(F, (2,), [TWO])
    nested = np.empty((), object)
    nested[()] = inner
    return {
        "floats": TensorList(F, (None, 2), [ROWS, ROWS[:1]]),
        "gaps": TensorList(DataType.INT64, None, [None, np.array(5), None, np.array([1, 2])], 7),
        "many gaps": TensorList(DataType.BOOL, (), [None] * 300),
        "strings": TensorList(DataType.STRING, (3,), [strings]),
        "halves": TensorList(DataType.BFLOAT16, (2,), [np.array([1, 2], ml_dtypes.bfloat16)]),
        "nothing": TensorList(DataType.COMPLEX64, (0, None)),
        "nested": TensorList(DataType.VARIANT, None, [nested, None]),
    }


def same(left: TensorList, right: TensorList) -> None:
    assert (left.dtype, left.element_shape, left.length, left.max_num_elements) == (
        right.dtype, right.element_shape, right.length, right.max_num_elements)
    for mine, other in zip(left.elements(), right.elements()):
        if mine is None or other is None:
            assert mine is None and other is None
        elif left.dtype is DataType.VARIANT:
            same(list_of(mine), list_of(other))
        else:
            assert mine.dtype == other.dtype
            assert mine.shape == other.shape
            assert mine.tolist() == other.tolist()


@pytest.mark.parametrize("name", lists())
def test_a_list_comes_back_from_the_wire(name: str) -> None:
    sent = lists()[name]
    same(TensorList.from_wire(sent.to_wire()), sent)
    array_of = np.empty((), object)
    array_of[()] = sent
    received = decode_tensor(encode_tensor(array_of, DataType.VARIANT))
    same(list_of(received), sent)


PEER = """
import sys, pathlib
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2
folder = pathlib.Path(sys.argv[1])
for path in sorted(folder.glob("*.ours")):
    raw = tf.constant(path.read_bytes())
    path.with_suffix(".theirs").write_bytes(tf.raw_ops.SerializeTensor(
        tensor=tf.raw_ops.ParseTensor(serialized=raw, out_type=tf.variant)).numpy())
made = tf.raw_ops.TensorListReserve(element_shape=[-1, 2], num_elements=4, element_dtype=tf.float32)
made = tf.raw_ops.TensorListSetItem(input_handle=made, index=2, item=[[1., 2.], [3., 4.]])
(folder / "made").write_bytes(tf.raw_ops.SerializeTensor(tensor=made).numpy())
ours = tf.raw_ops.ParseTensor(serialized=(folder / "floats.ours").read_bytes(), out_type=tf.variant)
(folder / "second").write_bytes(tf.io.serialize_tensor(
    tf.raw_ops.TensorListGetItem(input_handle=ours, index=1, element_shape=-1, element_dtype=tf.float32)).numpy())
"""


def test_tensorflow_reads_our_lists_and_we_read_its(tmp_path: Path) -> None:
    for name, value in lists().items():
        holder = np.empty((), object)
        holder[()] = value
        (tmp_path / f"{name}.ours").write_bytes(encode_tensor(holder, DataType.VARIANT))
    run_peer(PEER, str(tmp_path))
    for name, value in lists().items():
        same(list_of(decode_tensor((tmp_path / f"{name}.theirs").read_bytes())), value)
    made = list_of(decode_tensor((tmp_path / "made").read_bytes()))
    same(made, TensorList(F, (None, 2), [None, None, np.array([[1, 2], [3, 4]], np.float32), None]))
    second = array(wire.TensorProto.FromString((tmp_path / "second").read_bytes()))
    np.testing.assert_array_equal(second, ROWS[:1])
    theirs = wire.VariantTensorDataProto.FromString(decode_tensor((tmp_path / "made").read_bytes()).item())
    assert theirs.metadata == wire.VariantTensorDataProto.FromString(made.to_wire()).metadata


def variant(metadata: bytes, type_name: str = TYPE_NAME, tensors: int = 0) -> bytes:
    message = wire.VariantTensorDataProto(type_name=type_name, metadata=metadata)
    for _ in range(tensors):
        message.tensors.add().ParseFromString(encode_tensor(TWO))
    data: bytes = message.SerializeToString()
    return data


@pytest.mark.parametrize(("data", "text"), [
    (b"\xff\xff", "no VariantTensorDataProto"),
    (variant(b"", "tensorflow::Other"), "Input handle is not a list. Saw: 'tensorflow::Other'"),
    (variant(b""), "end within a number, after 0 bytes"),
    (variant(b"\x05\x00"), "end within a number, after 2 bytes"),
    (variant(b"\x80" * 12), "end within a number"),
    (variant(b"\x00\x01\x00\xff"), "tell no type and shape"),
    (variant(b"\x00\x63\x00"), "tell no type and shape"),
    (variant(b"\x01\x05\x01\x00"), r"a list of 1 tensors say that \[5\] are not set"),
    (variant(b"\x02\x00\x00\x01\x00"), r"a list of 2 tensors say that \[0, 0\] are not set"),
    (variant(b"\x00\x02\x00", tensors=1), "element 0 of a list of double is of type float"),
])
def test_bytes_that_are_no_list_are_refused(data: bytes, text: str) -> None:
    with pytest.raises(InvalidArgument, match=text):
        TensorList.from_wire(data)


def run(graph: Graph, name: str) -> Any:
    case = graph.case("Length", "", name)
    return KernelRunner(case).run(case.runs[0])[0]


def test_negative_indices_are_refused() -> None:
    graph = Graph()
    made = graph.op("SetItem", graph.of(TWO), np.int32(-1), TWO, resize_if_index_out_of_bounds=True)
    with pytest.raises(InvalidArgument, match="Trying to modify element -1 in a list with 1 elements"):
        run(graph, made)
    graph = Graph()
    made = graph.op("ScatterIntoExistingList", graph.of(TWO), ROWS[:1], ints([-1]))
    with pytest.raises(InvalidArgument, match="must all be non-negative"):
        run(graph, made)


def test_scattering_behind_the_end_makes_a_list_longer() -> None:
    graph = Graph()
    made = graph.op("ScatterIntoExistingList", graph.of(TWO), ROWS[:2], ints([3, 1]))
    stack = run(graph, graph.op("Stack", made, ANY))
    np.testing.assert_array_equal(stack, [TWO, ROWS[1], [0, 0], ROWS[0]])


def test_a_made_up_length_does_not_fill_the_memory() -> None:
    assert TensorList(F, None).resize(MAX_ELEMENTS).length == MAX_ELEMENTS
    huge = np.int32(2**31 - 1)
    for what in ("Reserve", "Resize", "SetItem", "ScatterV2"):
        graph = Graph()
        if what == "Reserve":
            made = graph.op("Reserve", ANY, huge)
        elif what == "Resize":
            made = graph.op("Resize", graph.of(), huge)
        elif what == "SetItem":
            made = graph.op("SetItem", graph.of(TWO), huge, TWO, resize_if_index_out_of_bounds=True)
        else:
            made = graph.op("ScatterV2", ROWS[:1], ints([huge]), ANY, np.int32(-1))
        with pytest.raises(ResourceExhausted, match="elements are more than"):
            run(graph, made)


def test_another_variant_is_refused() -> None:
    graph = Graph()
    made = graph.op("Length", graph.put(ROWS))
    with pytest.raises(InvalidArgument, match=r"Input list must be a scalar saw: \[3,2\]"):
        run(graph, made)
    with pytest.raises(InvalidArgument, match="Input handle is not a list. Saw: 'float'"):
        list_of(np.array(1.0))
    with pytest.raises(InvalidArgument, match="a list of tensors and int cannot be added"):
        TensorList(F, None) + 1
