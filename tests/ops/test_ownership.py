"""Whose memory it is: a feed stays the caller's, a fetched value does too, and variables copy before they write."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import runtime
from runtime import wire
from runtime._ext.variable import Variable
from runtime.dtypes import DataType
from tests.ops.case import node

F = DataType.FLOAT
ONES = np.ones(3, np.float32)


@pytest.fixture
def session() -> Any:
    graph = wire.GraphDef(node=[
        node("Placeholder", "x", dtype=F),
        node("VariableV2", "v", dtype=F, shape=(3,)), node("Assign", "v_set", ["v", "x"], T=F),
        node("AssignAdd", "v_add", ["v", "x"], T=F), node("Identity", "v_read", ["v"], T=F),
        node("VarHandleOp", "r", dtype=F, shape=(3,), shared_name="r"),
        node("AssignVariableOp", "r_set", ["r", "x"], dtype=F), node("ReadVariableOp", "r_read", ["r"], dtype=F),
        node("AssignAddVariableOp", "r_add", ["r", "x"], dtype=F),
        node("FIFOQueueV2", "q", component_types=[F], shapes=[(3,)]),
        node("QueueEnqueueV2", "q_put", ["q", "x"], Tcomponents=[F]),
        node("QueueEnqueueManyV2", "q_many", ["q", "rows"], Tcomponents=[F]), node("Placeholder", "rows", dtype=F),
        node("QueueDequeueV2", "q_get", ["q"], component_types=[F])])
    graph.versions.producer = 1882
    with runtime.Session(graph=graph) as made:
        yield made


def test_what_keeps_a_feed_copies_it(session: Any) -> None:
    x, rows = ONES.copy(), np.ones((2, 3), np.float32)
    session.run(["v_set", "r_set", "q_put"], feed_dict={"x:0": x})
    session.run("q_many", feed_dict={"rows:0": rows})
    x[:] = 7
    rows[:] = 8
    for name in ("v_read:0", "r_read:0", "q_get:0", "q_get:0", "q_get:0"):
        np.testing.assert_array_equal(session.run(name), ONES)


def test_a_fetched_value_is_a_snapshot(session: Any) -> None:
    session.run(["v_set", "r_set"], feed_dict={"x:0": ONES})
    before = session.run(["v:0", "v_read:0", "r_read:0"])
    session.run(["v_add", "r_add"], feed_dict={"x:0": ONES})
    for value in before:
        np.testing.assert_array_equal(value, ONES)
    for value in session.run(["v:0", "v_read:0", "r_read:0"]):
        np.testing.assert_array_equal(value, ONES + 1)


def test_changing_a_fetched_value_changes_nothing(session: Any) -> None:
    session.run(["v_set", "r_set"], feed_dict={"x:0": ONES})
    for name in ("v:0", "v_read:0", "r_read:0"):
        value = session.run(name)
        value[:] = 9
        np.testing.assert_array_equal(session.run(name), ONES)


def test_a_variable_is_changed_in_place_when_nobody_looks() -> None:
    variable = Variable("v", "c", int(F))
    variable.value = np.ones(4, np.float32)
    place = variable.value.__array_interface__["data"][0]
    assert variable.writable().__array_interface__["data"][0] == place
    reader = variable.read()
    assert variable.writable().__array_interface__["data"][0] != place
    np.testing.assert_array_equal(reader, np.ones(4))
