"""Ops whose work lies outside: what cannot be done is an error of its step, and the session goes on."""

from __future__ import annotations

import numpy as np
import pytest

import runtime
from runtime.dtypes import DataType
from runtime.errors import Aborted, Error, FailedPrecondition, Internal, InvalidArgument

GROUP = {"group_key": 1, "instance_key": 1}
REDUCE = {**GROUP, "merge_op": "Add", "final_op": "Id", "subdiv_offsets": [0]}


def test_abort_ends_the_step_and_not_the_process() -> None:
    graph = runtime.Graph()
    with graph.control_dependencies([graph.op("Abort", error_msg="enough")]):
        after = graph.identity(graph.constant(1.0))
    with runtime.Session(graph=graph) as session:
        with pytest.raises(Aborted, match="\nenough\n"):
            session.run(after)
        assert session.run(graph.constant(2.0)) == 2.0


@pytest.mark.parametrize("op", ["CollectiveReduce", "CollectiveBcastSend", "CollectiveBcastRecv"])
@pytest.mark.parametrize(("size", "error"), [(2, FailedPrecondition), (0, InvalidArgument), (1, Internal)])
def test_a_group_has_one_member(op: str, size: int, error: type[Error]) -> None:
    graph = runtime.Graph()
    value = graph.constant(np.ones(2, np.float32))
    if op == "CollectiveReduce":
        made = graph.op(op, value, group_size=size, **REDUCE)
    elif op == "CollectiveBcastSend":
        made = graph.op(op, value, group_size=size, shape=(2,), **GROUP)
    else:
        made = graph.op(op, T=DataType.FLOAT, group_size=size, shape=(2,), **GROUP)
    with runtime.Session(graph=graph) as session:
        if size == 1 and op != "CollectiveBcastRecv":
            assert session.run(made).tolist() == [1, 1]
            return
        with pytest.raises(error, match="group"):
            session.run(made)


def test_a_function_of_the_client_is_not_found() -> None:
    graph = runtime.Graph()
    made = graph.op("PyFunc", [graph.constant(1.0)], token="pyfunc_7", Tout=[DataType.FLOAT])
    with (runtime.Session(graph=graph) as session,
          pytest.raises(InvalidArgument, match=r"ValueError: Could not find callback with key=pyfunc_7 in the reg")):
        session.run(made[0] if isinstance(made, (list, tuple)) else made)
