"""Small graphs that ask for more memory than there is: an error at once, and the session goes on."""

from __future__ import annotations

import numpy as np
import pytest

import runtime
from runtime.errors import ResourceExhausted

DIMS = np.array([1 << 20, 1 << 24], np.int64)  # 64 TiB of float32


@pytest.mark.parametrize("op", ["BroadcastTo", "Fill", "Tile"])
def test_a_result_that_no_memory_holds_is_refused(op: str) -> None:
    graph = runtime.Graph()
    dims = graph.placeholder("int64", [2], name="dims")
    value = graph.placeholder("float32", name="value")
    made = graph.op(op, dims, value) if op == "Fill" else graph.op(op, value, dims)
    total = graph.reduce_sum(made)
    with runtime.Session(graph=graph) as session:
        scalar = np.ones((1, 1) if op == "Tile" else (), np.float32)
        with pytest.raises(ResourceExhausted, match="out of memory|OOM when"):
            session.run(total, {dims: DIMS, value: scalar})
        assert session.run(total, {dims: np.array([3, 4]), value: scalar}) == 12


@pytest.mark.parametrize("op", ["ResizeBilinear", "ResizeBicubic", "ResizeArea", "ResizeNearestNeighbor"])
def test_a_size_that_no_memory_holds_is_refused(op: str) -> None:
    graph = runtime.Graph()
    image = graph.placeholder("float32", [1, 2, 2, 1], name="image")
    size = graph.placeholder("int32", [2], name="size")
    resized = graph.op(op, image, size)
    with runtime.Session(graph=graph) as session:
        some = np.ones((1, 2, 2, 1), np.float32)
        with pytest.raises(ResourceExhausted, match="out of memory|OOM when"):
            session.run(resized, {image: some, size: np.array([2**31 - 1, 2**31 - 1])})
        assert session.run(resized, {image: some, size: np.array([4, 3])}).shape == (1, 4, 3, 1)
