"""Tensor arrays and stacks as parts of a step: they end with it, and nobody can make them fill the memory."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from runtime._ext.errors import InvalidArgument, ResourceExhausted
from runtime.dtypes import DataType
from runtime.ops.state.tensor_array import MAX_ELEMENTS, Stack, TensorArray
from tests.ops.case import Run
from tests.ops.cases.tensor_arrays import Graph
from tests.ops.kernel_runner import KernelRunner

F = DataType.FLOAT
TWO = np.array([1, 2], np.float32)


def run(graph: Graph, *fetches: str) -> list[Any]:
    """Run the nodes that were added, in one step."""
    case = graph.case("TensorArrayV3", "", *fetches)
    return KernelRunner(case).run(case.runs[0])


def array(size: int, **options: Any) -> TensorArray:
    return TensorArray("a", F, None, size, xp=np, **options)


@pytest.mark.parametrize("op", ["TensorArrayV3", "StackV2"])
def test_an_array_ends_with_its_step(op: str) -> None:
    graph = Graph("TensorArrayV3", 2, dtype=F) if op == "TensorArrayV3" else Graph("StackV2", -1, elem_type=F)
    graph.last = "a"
    case = graph.case(op, "", "a:0")
    (handle,) = KernelRunner(case).run(Run(case.runs[0].feeds, ["a:0"]))
    resource = handle.item().resource
    with pytest.raises(InvalidArgument, match="has already been closed"):
        resource.write(0, TWO) if isinstance(resource, TensorArray) else resource.push(TWO)


def test_lengths_below_zero_are_refused() -> None:
    graph = Graph("TensorArrayV3", 2, dtype=F)
    graph.do("Split", "split", np.ones((4, 2), np.float32), np.array([5, -1], np.int64))
    with pytest.raises(InvalidArgument, match=r"lengths that are not negative, received: \[5, -1\]"):
        run(graph)


def test_a_made_up_size_does_not_fill_the_memory() -> None:
    largest = array(MAX_ELEMENTS)
    assert largest.size() == MAX_ELEMENTS
    with pytest.raises(ResourceExhausted, match=f"{MAX_ELEMENTS + 1} elements are more than"):
        array(MAX_ELEMENTS + 1)
    growing = array(0, is_dynamic=True)
    with pytest.raises(ResourceExhausted, match="2147483648 elements are more than"):
        growing.write(2**31 - 1, TWO)
    assert growing.size() == 0


def test_a_sum_of_gradients_changes_no_value_that_was_written() -> None:
    source = array(1)
    source.write(0, np.zeros(2, np.float32))
    sums = source.gradient("g", lambda name, size: TensorArray(name, F, None, size, is_gradient=True, xp=np))
    first, second = TWO.copy(), TWO.copy()
    for value in (first, second, second):
        sums.write(0, value)
    np.testing.assert_array_equal(sums.read(0), TWO * 3)
    np.testing.assert_array_equal(first, TWO)
    np.testing.assert_array_equal(second, TWO)


def test_an_array_is_safe_from_several_threads() -> None:
    source = array(1)
    source.write(0, np.zeros(1000, np.float32))
    sums = source.gradient("g", lambda name, size: TensorArray(name, F, None, size, is_gradient=True, xp=np))
    ones = np.ones(1000, np.float32)
    stack = Stack("s", F, -1)

    def work() -> None:
        for _ in range(200):
            sums.write(0, ones)
            stack.push(ones)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    np.testing.assert_array_equal(sums.read(0), ones * 800)
    assert repr(stack).endswith("size 800>")


def test_another_resource_is_refused() -> None:
    graph = Graph("StackV2", -1, elem_type=F)
    graph.flows["a"] = graph.put(np.float32(0))
    graph.do("Size", "size")
    with pytest.raises(InvalidArgument, match="does not name a tensor array; connect the output of a TensorArrayV3"):
        run(graph, "size:0")
    graph = Graph("TensorArrayV3", 1, dtype=F)
    graph.add("StackPopV2", "pop", ["a"], elem_type=F)
    with pytest.raises(InvalidArgument, match="does not name a stack; connect the output of a StackV2"):
        run(graph, "pop:0")
