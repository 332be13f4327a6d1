"""Feeds of a few bytes that stand for a great deal of memory: other clients do not wait for them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from runtime import wire
from tests.faults.watch import witness
from tests.graph.graphs import FLOAT, STRING, node, placeholder
from tests.interop.raw import Wire, connect
from tests.master.harness import array
from tests.processes import ServerProcess

INVALID_ARGUMENT, RESOURCE_EXHAUSTED = 3, 8
LONGEST_S = 0.3


def splat(tensor: Any, elements: int, value: float = 2.0) -> None:
    """Make a TensorProto of one value, repeated."""
    tensor.dtype = int(FLOAT)
    tensor.tensor_shape.dim.add(size=elements)
    tensor.float_val.append(value)


def splat_request(handle: str, elements: int) -> bytes:
    request = wire.RunStepRequest(session_handle=handle, fetch=["size:0", "last:0"])
    splat(request.feed.add(name="x:0").tensor, elements)
    return bytes(request.SerializeToString())


def nodes() -> list[Any]:
    return [
        placeholder("x"),
        node("size", "Size", "x", T=FLOAT),
        node("zero", "Const", dtype=FLOAT, value=np.float32(0)),
        node("last", "Maximum", "zero", "zero", T=FLOAT),
    ]


def test_a_feed_that_expands_holds_up_nobody(target: ServerProcess, client: Wire) -> None:
    handle = client.session(*nodes())
    client.send("RunStep", splat_request(handle, 10))  # compiled, and known to be short
    request = splat_request(handle, 100 << 20)
    with connect(target.target) as other, witness(target, LONGEST_S):
        for _ in range(3):
            calls = [link.future("RunStep", request, 60.0) for link in (client, other)]
            for call in calls:
                answer = wire.RunStepResponse.FromString(call.result())
                assert {entry.name: array(entry.tensor) for entry in answer.tensor}["size:0"] == 100 << 20


def test_a_callable_feed_that_expands_holds_up_nobody(target: ServerProcess, client: Wire) -> None:
    handle = client.session(*nodes())
    options = wire.CallableOptions(feed=["x:0"], fetch=["size:0"])
    number = client.call("MakeCallable", session_handle=handle, options=options).handle
    request = wire.RunCallableRequest(session_handle=handle, handle=number)
    splat(request.feed.add(), 100 << 20)
    with witness(target, LONGEST_S):
        for _ in range(3):
            answer = client.call("RunCallable", request, timeout_s=60.0)
            assert [array(tensor) for tensor in answer.fetch] == [100 << 20]


@pytest.mark.parametrize("elements", [600 << 20, 1 << 40, 1 << 60])
def test_a_feed_beyond_any_limit_is_refused_with_its_name(target: ServerProcess, client: Wire, elements: int) -> None:
    handle = client.session(*nodes())
    request = wire.RunStepRequest.FromString(splat_request(handle, elements))
    request.store_errors_in_response_body = True
    with witness(target, LONGEST_S):
        answer = client.call("RunStep", request)
    assert answer.status_code == (RESOURCE_EXHAUSTED if elements < 1 << 60 else INVALID_ARGUMENT)
    assert 'feed[0] "x:0"' in answer.status_error_message
    assert str(elements) in answer.status_error_message


def test_a_million_empty_strings_hold_up_nobody(target: ServerProcess, client: Wire) -> None:
    handle = client.session(placeholder("s", STRING), node("size", "Size", "s", T=STRING))
    with witness(target, LONGEST_S):
        for _ in range(3):
            value = np.full(1 << 20, b"", dtype=object)
            assert client.run(handle, ["size:0"], feed={"s:0": value}) == {"size:0": 1 << 20}
