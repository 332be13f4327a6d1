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
        with pytest.raises(ResourceExhausted, match="out of memory"):
            session.run(total, {dims: DIMS, value: scalar})
        assert session.run(total, {dims: np.array([3, 4]), value: scalar}) == 12
