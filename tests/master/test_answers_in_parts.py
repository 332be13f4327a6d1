"""Large fetches are sent from the memory of the graph's own arrays: later steps must not change what is on its way."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

from runtime import wire
from runtime._ext.message_parts import MessageParts
from tests.graph.graphs import FLOAT, INT32, const, node
from tests.master.harness import Caller, array, step_request

ROWS, COLUMNS = 400, 100


def graph() -> list[Any]:
    shape = const("shape", np.array([ROWS, COLUMNS], np.int32))
    flat = const("flat", np.array([-1], np.int32))
    one = const("one", 1.0)
    ref = [
        node("v", "VariableV2", dtype=FLOAT, shape=(ROWS, COLUMNS)),
        node("ones", "Fill", "shape", "one", T=FLOAT, index_type=INT32),
        node("init", "Assign", "v", "ones", T=FLOAT),
        node("read", "Identity", "v", T=FLOAT),
        node("seen", "Reshape", "read", "flat", T=FLOAT, Tshape=INT32),
        node("add", "AssignAdd", "v", "ones", T=FLOAT),
    ]
    resource = [
        node("r", "VarHandleOp", dtype=FLOAT, shape=(ROWS, COLUMNS)),
        node("r/init", "AssignVariableOp", "r", "ones", dtype=FLOAT),
        node("r/read", "ReadVariableOp", "r", dtype=FLOAT),
        node("r/seen", "Reshape", "r/read", "flat", T=FLOAT, Tshape=INT32),
        node("r/add", "AssignAddVariableOp", "r", "ones", dtype=FLOAT),
    ]
    return [shape, flat, one, *ref, *resource]


@pytest.mark.parametrize(("fetch", "change"), [
    ("v:0", "add"), ("read:0", "add"), ("seen:0", "add"), ("r/read:0", "r/add"), ("r/seen:0", "r/add"),
])
def test_a_step_changes_no_answer_that_is_on_its_way(master: Caller, fetch: str, change: str) -> None:
    handle = master.session(*graph())
    master.run(handle, target=["init", "r/init"])
    request = step_request(handle, fetch=[fetch]).SerializeToString()

    async def answer() -> Any:
        return await master.handlers["RunStep"](request, None)

    held = [asyncio.run_coroutine_threadsafe(answer(), master.loop).result(30) for _ in range(2)]
    for _ in range(3):
        master.run(handle, target=[change])
    for one in held:
        assert isinstance(one, MessageParts)
        (entry,) = wire.RunStepResponse.FromString(bytes(one)).tensor
        assert np.all(array(entry.tensor) == 1.0)
    assert np.all(master.run(handle, fetch=[fetch])[0] == 4.0)
