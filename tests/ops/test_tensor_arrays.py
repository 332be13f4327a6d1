"""Tensor arrays and stacks as parts of a step: they end with it, and nobody can make them fill the memory."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from runtime import wire
from runtime._ext import kernels as compiled_kernels
from runtime._ext.errors import Error, InvalidArgument, ResourceExhausted
from runtime.dtypes import DataType
from runtime.graph.graph import Graph as StepGraph
from runtime.ops.state.tensor_array import MAX_ELEMENTS, Stack, TensorArray
from tests.ext.kernels.harness import misaligned
from tests.ops.case import Run
from tests.ops.cases.tensor_arrays import COUNTED, Graph
from tests.ops.kernel_runner import KernelRunner
from tests.step.maker import Runner

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


def _random_uses(seed: int, clears: bool, is_dynamic: bool) -> list[tuple[Graph, list[str]]]:
    """Return graphs that write, read, gather and scatter at random indices, right and wrong ones, join and split; on an
    array, and then perhaps on its gradients.
    """
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(12):
        graph = Graph("TensorArrayV3", 4, dtype=F, clear_after_read=clears, dynamic_size=is_dynamic)
        fetches = []
        on = "a"
        for number in range(int(rng.integers(1, 9))):
            if on == "a" and rng.random() < 0.15:
                on = "gradients"
                graph.do("Grad", on, source="s")
            index = np.int32(rng.integers(-1, 6) if rng.random() < 0.3 else rng.integers(0, 4))
            several = rng.integers(0, 5, int(rng.integers(0, 4))).astype(np.int32)
            if rng.random() < 0.5:
                several = np.unique(several)
            name = f"n{number}"
            roll = rng.random()
            if roll < 0.3:
                graph.do("Write", name, index, rng.standard_normal(2).astype("f4"), on=on)
            elif roll < 0.5:
                graph.do("Scatter", name, several, rng.standard_normal((len(several), 2)).astype("f4"), on=on)
            elif roll < 0.65:
                lengths = rng.integers(0, 4, 4 if rng.random() < 0.9 else 3)
                if rng.random() < 0.5:
                    lengths[:] = 2
                graph.do("Split", name, rng.standard_normal(int(lengths.sum())).astype("f4"), lengths, on=on)
            elif roll < 0.75:
                graph.do("Read", name, index, on=on)
                fetches.append(f"{name}:0")
            elif roll < 0.85:
                graph.do("Gather", name, several, on=on)
                fetches.append(f"{name}:0")
            elif roll < 0.95:
                graph.do("Concat", name, on=on)
                fetches += [f"{name}:0", f"{name}:1"]
            elif roll < 0.98:
                graph.do("Size", name, on=on)
                fetches.append(f"{name}:0")
            else:
                graph.do("Close", name, on=on)
        made.append((graph, fetches))
    return made


def _run_step(graph: Graph, fetches: list[str]) -> list[Any] | str:
    """Return what a step gives, or the message of its error."""
    runner = Runner(StepGraph.from_proto(wire.GraphDef(node=graph.nodes)))
    try:
        found = runner.run(fetches, {f"{name}:0": value for name, value in graph.feeds.items()}, [graph.last])
    except Error as error:
        return COUNTED.sub("", error.message)
    return [value.tolist() for value in found]


@pytest.mark.parametrize("clears", [True, False])
@pytest.mark.parametrize("is_dynamic", [True, False])
def test_compiled_kernels_do_what_the_definitions_do(
    clears: bool, is_dynamic: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    graphs = [use for seed in range(8) for use in _random_uses(seed, clears, is_dynamic)]
    ours = [_run_step(*use) for use in graphs]
    monkeypatch.setattr(compiled_kernels, "select", lambda *args: None)
    assert ours == [_run_step(*use) for use in graphs]
    assert sum(isinstance(result, list) for result in ours) > 5
    assert sum(isinstance(result, str) for result in ours) > 5


def test_packed_and_unpacked_rows_are_those_of_the_array() -> None:
    rows = np.arange(24, dtype=np.float32).reshape(4, 3, 2)
    graph = Graph("TensorArrayV3", 4, dtype=F)
    graph.do("Scatter", "scatter", np.arange(4, dtype=np.int32), rows)
    graph.do("Read", "read", np.int32(2))
    graph.do("Gather", "gather", np.array([0, 3], np.int32))
    assert _run_step(graph, ["read:0", "gather:0"]) == [rows[2].tolist(), rows[[0, 3]].tolist()]


@pytest.mark.parametrize("op", ["Read", "Write", "Gather", "Scatter", "Concat", "Split", "Size", "Close"])
def test_the_simple_cases_are_compiled(op: str) -> None:
    kinds = [DataType.RESOURCE, F, DataType.INT64, F]
    assert compiled_kernels.select(f"TensorArray{op}V3", kinds, [F, DataType.INT64], {}.get) is not None


def test_joined_and_split_pieces_are_those_of_the_array() -> None:
    rows = np.arange(12, dtype=np.float32).reshape(6, 2)
    graph = Graph("TensorArrayV3", 3, dtype=F, clear_after_read=False)
    graph.do("Split", "split", rows, misaligned(np.array([1, 0, 5], np.int64)))
    graph.do("Read", "read", np.int32(2))
    graph.do("Concat", "joined")
    graph.do("Size", "size")
    assert _run_step(graph, ["read:0", "joined:0", "joined:1", "size:0"]) == [
        rows[1:].tolist(), rows.tolist(), [1, 0, 5], 3]


def test_gradients_written_first_stand_alone_and_later_ones_are_added() -> None:
    """A place of gradients that its source has written stands for zeros until something comes."""
    graph = Graph("TensorArrayV3", 3, dtype=F)
    graph.do("Scatter", "scatter", np.arange(3, dtype=np.int32), np.ones((3, 2), np.float32))
    graph.do("Grad", "g", source="s")
    for number in range(3):
        graph.do("Write", f"write{number}", np.int32(number % 2), TWO, on="g")
    for number in range(3):
        graph.do("Read", f"read{number}", np.int32(number), on="g")
    assert _run_step(graph, ["read0:0", "read1:0", "read2:0"]) == [[2, 4], [1, 2], [0, 0]]


def test_gradients_of_one_source_are_one_array() -> None:
    graph = Graph("TensorArrayV3", 2, dtype=F)
    for name in ("first", "second", "third"):
        graph.do("Grad", name, source="third" if name == "third" else "s")
        graph.do("Write", f"write_{name}", np.int32(1), TWO, on=name)
    graph.do("Read", "read", np.int32(1), on="first")
    graph.do("Read", "other", np.int32(1), on="third")
    assert _run_step(graph, ["read:0", "other:0"]) == [[2, 4], [1, 2]]


@pytest.mark.parametrize(("limit", "kind", "message"), [
    (-1, F, None), (1, F, "overflowed its max_size"), (2, F, None), (-1, DataType.INT32, "Must have type"),
])
def test_a_stack_gives_back_what_was_pushed(limit: int, kind: DataType, message: str | None) -> None:
    graph = Graph("StackV2", limit, elem_type=F)
    values = [np.full(2, number, np.float32 if kind is F else np.int32) for number in range(2)]
    for number, value in enumerate(values):
        graph.add("StackPushV2", f"push{number}", ["a", graph.put(value)], T=kind)
    for number in range(2):
        graph.add("StackPopV2", f"pop{number}", ["a"], elem_type=F)
    found = _run_step(graph, ["pop0:0", "pop1:0", "push0:0"])
    if message is None:
        assert found == [[1, 1], [0, 0], [0, 0]]
        graph.add("StackPopV2", "empty", ["a"], elem_type=F)
        assert "is empty when calling Pop()" in _run_step(graph, ["pop0:0"])
    else:
        assert message in found
