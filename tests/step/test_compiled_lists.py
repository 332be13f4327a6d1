"""Lists of tensors by compiled kernels: what they make, and what they leave to the definitions in Python."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from runtime._ext import kernels
from runtime._ext.errors import InvalidArgument
from runtime._ext.tensor_chunks import CHUNK
from runtime.dtypes import DataType, to_numpy
from tests.ext.kernels.harness import misaligned
from tests.step.maker import GraphMaker, Runner

INT, FLOAT, VARIANT, STRING = DataType.INT32, DataType.FLOAT, DataType.VARIANT, DataType.STRING
LIST_OPS = ("TensorListPushBack", "TensorListPopBack", "TensorListLength", "TensorListGetItem", "TensorListSetItem",
            "TensorListStack", "TensorListReserve", "TensorListFromTensor", "TensorListElementShape")  # fmt: skip


def empty(maker: GraphMaker, kind: DataType = FLOAT, limit: int = -1) -> str:
    maker.const("shape", np.array([2], np.int32))
    maker.const("limit", np.int32(limit))
    return maker.call("EmptyTensorList", "empty", "shape", "limit", element_dtype=kind, shape_type=INT)


def random_graph(seed: int) -> tuple[GraphMaker, list[str], int]:
    """Return lists made of each other, what is read of them, and how long the last list is."""
    choices = random.Random(seed)
    maker = GraphMaker()
    maker.placeholder("x")
    lists = [(empty(maker), 0)]
    fetches = []
    for number in range((CHUNK - 3) * (seed % 2)):
        made = maker.call("TensorListPushBack", f"first{number}", lists[-1][0], "x", element_dtype=FLOAT)
        lists.append((made, number + 1))
    for number in range(choices.randint(20, 100)):
        source, length = choices.choice(lists[-3:])
        value = maker.op("Mul", f"value{number}", "x", maker.const(f"factor{number}", np.float32(number)))
        roll = choices.random()
        if roll < 0.6 or not length:
            made = maker.call("TensorListPushBack", f"n{number}", source, value, element_dtype=FLOAT)
            lists.append((made, length + 1))
        elif roll < 0.7:
            made = maker.call("TensorListPopBack", f"n{number}", source, "shape", element_dtype=FLOAT)
            lists.append((made, length - 1))
            fetches.append(f"n{number}:1")
        else:
            maker.const(f"index{number}", np.int32(choices.randrange(length)))
            if roll < 0.85:
                made = maker.call("TensorListSetItem", f"n{number}", source, f"index{number}", value,
                                  element_dtype=FLOAT, resize_if_index_out_of_bounds=False)  # fmt: skip
                lists.append((made, length))
            else:
                maker.call("TensorListGetItem", f"n{number}", source, f"index{number}", "shape", element_dtype=FLOAT)
                fetches.append(f"n{number}:0")
    rows = choices.randrange(1, 2 * CHUNK + 2)
    maker.const("rows", np.arange(2 * rows, dtype=np.float32).reshape(rows, 2))
    maker.const("some", choices.choice([np.array([-1], np.int32), np.array([2], np.int32), np.int32(-1)]))
    maker.const("count", np.int32(rows))
    maker.call("TensorListFromTensor", "from", "rows", "some", element_dtype=FLOAT, shape_type=INT)
    lists.append(("from", rows))
    maker.call("TensorListReserve", "reserved", "some", "count", element_dtype=FLOAT, shape_type=INT)
    set_last = maker.call("TensorListSetItem", "set", "reserved", maker.const("last", np.int32(rows - 1)), "x",
                          element_dtype=FLOAT, resize_if_index_out_of_bounds=False)  # fmt: skip
    lists.append((set_last, rows))
    for name, kind in (("from", INT), ("reserved", DataType.INT64), ("empty", INT)):
        maker.call("TensorListElementShape", f"{name}/shape", name, shape_type=kind)
        fetches.append(f"{name}/shape:0")
    for number, (name, length) in enumerate(lists[1:]):
        if length:
            maker.call("TensorListStack", f"stack{number}", name, "shape", element_dtype=FLOAT, num_elements=length)
            fetches.append(f"stack{number}:0")
        maker.call("TensorListLength", f"length{number}", name)
        fetches.append(f"length{number}:0")
    return maker, fetches, max(length for _, length in lists)


def test_compiled_kernels_and_definitions_agree(monkeypatch: pytest.MonkeyPatch):
    longest = 0
    original = kernels.select
    for seed in range(25):
        maker, fetches, length = random_graph(seed)
        longest = max(longest, length)
        runner = Runner(maker)
        feeds = {"x:0": np.array([1, -2], np.float32)}
        found = [value.tolist() for value in runner.run(fetches, feeds)]
        with monkeypatch.context() as context:

            def select(op: str, *args: Any) -> Any:
                return None if op in LIST_OPS else original(op, *args)

            context.setattr(kernels, "select", select)
            assert [value.tolist() for value in runner.run(fetches, feeds)] == found, seed
    assert longest > CHUNK


@pytest.mark.parametrize("op", LIST_OPS)
def test_there_is_a_kernel(op):
    attrs = {"element_dtype": FLOAT, "num_elements": -1}
    assert kernels.select(op, [VARIANT, INT, FLOAT], [INT], attrs.get) is not None


@pytest.mark.parametrize(("shape", "count", "text"), [
    (np.int32(3), 2, "only valid scalar shape tensor"), (np.array([-2], np.int32), 2, "Dimension -2 must be"),
    (np.array([2], np.int32), -1, "must be a non negative number, but got -1"),
])  # fmt: skip
def test_a_list_that_cannot_be_reserved_is_refused_in_tensorflows_words(shape, count, text):
    maker = GraphMaker()
    maker.placeholder("count", INT)
    maker.const("shape", shape)
    maker.call("TensorListReserve", "reserved", "shape", "count", element_dtype=FLOAT, shape_type=INT)
    maker.call("TensorListLength", "length", "reserved")
    with pytest.raises(InvalidArgument, match=text):
        Runner(maker).run("length:0", {"count:0": np.int32(count)})


@pytest.mark.parametrize("kind", [INT, DataType.INT64])
def test_shapes_may_lie_at_any_address(kind):
    """As a fed tensor does in a request."""
    maker = GraphMaker()
    maker.placeholder("shape", kind)
    maker.const("count", np.int32(3))
    maker.const("rows", np.ones((4, 2), np.float32))
    for op, first, second in (("Reserve", "shape", "count"), ("FromTensor", "rows", "shape")):
        maker.call(f"TensorList{op}", op, first, second, element_dtype=FLOAT, shape_type=kind)
        maker.call("TensorListElementShape", f"{op}/shape", op, shape_type=kind)
    shape = misaligned(np.array([2], to_numpy(kind)))
    assert not shape.flags.aligned
    assert Runner(maker).run(["Reserve/shape:0", "FromTensor/shape:0"], {"shape:0": shape}) == [[2], [2]]


def test_rows_of_another_shape_make_no_list():
    maker = GraphMaker()
    maker.placeholder("rows")
    maker.const("shape", np.array([3], np.int32))
    maker.call("TensorListFromTensor", "made", "rows", "shape", element_dtype=FLOAT, shape_type=INT)
    maker.call("TensorListLength", "length", "made")
    for rows, text in ((np.ones((2, 2), np.float32), r"list with shape \[3\] from a tensor with shape \[2\]"),
                       (np.float32(1), "must be at least a vector")):
        with pytest.raises(InvalidArgument, match=text):
            Runner(maker).run("length:0", {"rows:0": rows})


def test_a_list_that_is_pushed_twice_stays_as_it_was():
    maker = GraphMaker()
    maker.placeholder("x")
    source = empty(maker)
    for number in range(CHUNK + 1):
        source = maker.call("TensorListPushBack", f"push{number}", source, "x", element_dtype=FLOAT)
    maker.op("Neg", "other", "x")
    maker.call("TensorListPushBack", "left", source, "x", element_dtype=FLOAT)
    maker.call("TensorListPushBack", "right", source, "other", element_dtype=FLOAT)
    for name in ("left", "right"):
        maker.call("TensorListStack", f"{name}/all", name, "shape", element_dtype=FLOAT, num_elements=-1)
    left, right = Runner(maker).run(["left/all:0", "right/all:0"], {"x:0": np.array([1, 2], np.float32)})
    assert left.shape == right.shape == (CHUNK + 2, 2)
    assert (left == [1, 2]).all()
    assert (right[:-1] == [1, 2]).all()
    assert right[-1].tolist() == [-1, -2]


@pytest.mark.parametrize(
    ("limit", "value", "text"),
    [(0, [1, 2], "push item into a full list"), (-1, [1, 2, 3], "incompatible shape"), (-1, 1, "incompatible shape")],
)
def test_what_does_not_fit_is_refused_in_tensorflows_words(limit, value, text):
    maker = GraphMaker()
    maker.placeholder("x")
    maker.call("TensorListPushBack", "push", empty(maker, limit=limit), "x", element_dtype=FLOAT)
    maker.call("TensorListLength", "length", "push")
    with pytest.raises(InvalidArgument, match=text):
        Runner(maker).run("length:0", {"x:0": np.array(value, np.float32)})


def test_a_list_of_another_type_is_refused():
    maker = GraphMaker()
    maker.placeholder("x")
    maker.call("TensorListPushBack", "push", empty(maker, INT), "x", element_dtype=FLOAT)
    maker.call("TensorListLength", "length", "push")
    with pytest.raises(InvalidArgument, match="Invalid data types; op elements float but list elements int32"):
        Runner(maker).run("length:0", {"x:0": np.array([1, 2], np.float32)})


def test_lists_of_strings():
    maker = GraphMaker()
    maker.placeholder("x", STRING)
    maker.call("TensorListPushBack", "push", empty(maker, STRING), "x", element_dtype=STRING)
    maker.call("TensorListStack", "all", "push", "shape", element_dtype=STRING, num_elements=1)
    found = Runner(maker).run("all:0", {"x:0": np.array([b"a", b"bc"], object)})
    assert found.tolist() == [[b"a", b"bc"]]
