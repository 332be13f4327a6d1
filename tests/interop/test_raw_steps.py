"""Checklist 25, 29, 42, 43 and 63 to 65 in bytes of our own, on both servers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from runtime import wire
from runtime.dtypes import DataType
from tests.graph.graphs import FLOAT, STRING, const, identity, node, placeholder
from tests.interop.programs import FROM
from tests.interop.raw import Refused, Wire, connect
from tests.master.harness import array, step_request

WRONG_TYPE = f"{FROM}Output 0 of type int32 does not match declared output type float for node {{{{node _recv_x_0}}}}"


@pytest.fixture
def client(targets: dict[str, str], server_name: str) -> Iterator[Wire]:
    """A channel of its own to the server whose turn it is."""
    with connect(targets[server_name]) as made:
        yield made


@pytest.fixture
def handle(client: Wire) -> str:
    """A session with ``y = x``, ``s = y + w`` and a constant."""
    return client.session(
        placeholder("x"), placeholder("w"), identity("y", "x"), node("s", "AddV2", "y", "w", T=FLOAT), const("c", 1.0)
    )


def test_25_each_tensor_is_named_as_it_was_asked_for(client: Wire, handle: str) -> None:
    # One spelling of an endpoint in a session: TensorFlow's server waits for ever for the second.
    assert client.run(handle, ["y"], feed={"x:0": 2.0}) == {"y": 2.0}
    assert client.run(handle, ["c", "s:0"], feed={"x:0": 2.0, "w:0": 1.0}) == {"c": 1.0, "s:0": 3.0}
    assert [entry.name for entry in client.step(handle, ["c", "c"]).tensor] == ["c"]


def test_25_both_spellings_in_one_step_are_both_answered_by_ours(targets: dict[str, str]) -> None:
    # TensorFlow's server answers one of them, which no client can use.
    with connect(targets["ours"]) as client:
        handle = client.session(const("c", 1.0))
        assert client.run(handle, ["c", "c:0"]) == {"c": 1.0, "c:0": 1.0}
        handle = client.session(placeholder("x"), identity("y", "x"))
        for name in ("x:0", "x", "x:0"):
            assert client.run(handle, ["y:0"], feed={name: 2.0}) == {"y:0": 2.0}


def test_29_a_feed_of_another_type_is_internal_with_the_text(client: Wire, handle: str) -> None:
    for _ in range(2):
        assert client.in_body(handle, ["y:0"], feed={"x:0": np.int32(1)}) == (13, WRONG_TYPE)
        assert client.refusal("RunStep", step_request(handle, ["y:0"], feed={"x:0": np.int32(1)})) == (13, WRONG_TYPE)
    assert client.run(handle, ["y:0"], feed={"x:0": 2.0}) == {"y:0": 2.0}


def shape(*sizes: int) -> Any:
    made = wire.TensorShapeProto()
    for size in sizes:
        made.dim.add(size=size)
    return made


def feed_proto(client: Wire, proto: Any, dtype: DataType = FLOAT, *, in_body: bool = True) -> Any:
    """Feed exactly this message to an Identity; return the answer as a list, or the failure as code and text."""
    handle = client.session(placeholder("x", dtype), identity("y", "x", dtype=dtype))
    request = wire.RunStepRequest(session_handle=handle, fetch=["y:0"], store_errors_in_response_body=in_body)
    request.feed.add(name="x:0").tensor.CopyFrom(proto)
    answer = client.call("RunStep", request)
    if answer.status_code:
        return answer.status_code, answer.status_error_message
    return array(answer.tensor[0].tensor).tolist()


TENSORS: dict[str, tuple[Any, DataType, Any]] = {
    "splat": (wire.TensorProto(dtype=1, tensor_shape=shape(2, 2), float_val=[3.0]), FLOAT, [[3.0, 3.0], [3.0, 3.0]]),
    "short": (wire.TensorProto(dtype=1, tensor_shape=shape(4), float_val=[3.0, 4.0]), FLOAT, [3.0, 4.0, 4.0, 4.0]),
    "surplus": (wire.TensorProto(dtype=1, tensor_shape=shape(1), float_val=[3.0, 4.0]), FLOAT, [3.0]),
    "absent": (wire.TensorProto(dtype=1, tensor_shape=shape(3)), FLOAT, [0.0, 0.0, 0.0]),
    "no shape": (wire.TensorProto(dtype=1, float_val=[9.0]), FLOAT, 9.0),
    "content without shape": (wire.TensorProto(dtype=1, tensor_content=b"\0\0\x80\x3f"), FLOAT, 1.0),
    "empty": (wire.TensorProto(dtype=1, tensor_shape=shape(2, 0)), FLOAT, [[], []]),
    "strings": (wire.TensorProto(dtype=7, tensor_shape=shape(2), string_val=[b"a", b"bb"]), STRING, [b"a", b"bb"]),
    "strings in content": (
        wire.TensorProto(dtype=7, tensor_shape=shape(3), tensor_content=b"\x01\x02\x00abb"),
        STRING,
        [b"a", b"bb", b""],
    ),
}


@pytest.mark.parametrize("case", TENSORS)
def test_63_65_every_encoding_of_a_feed_is_read(client: Wire, case: str) -> None:
    proto, dtype, expected = TENSORS[case]
    assert feed_proto(client, proto, dtype) == expected


MALFORMED: dict[str, tuple[Any, DataType]] = {
    "content too short": (wire.TensorProto(dtype=1, tensor_shape=shape(3), tensor_content=b"123"), FLOAT),
    "strings too short": (wire.TensorProto(dtype=7, tensor_shape=shape(3), tensor_content=b"\x01\x02\x09abb"), STRING),
    "negative size": (wire.TensorProto(dtype=1, tensor_shape=shape(-1), float_val=[1.0]), FLOAT),
    "more than can be": (wire.TensorProto(dtype=1, tensor_shape=shape(1 << 40, 1 << 40), float_val=[1.0]), FLOAT),
    "no type": (wire.TensorProto(tensor_shape=shape(1), float_val=[1.0]), FLOAT),
    "type unheard of": (wire.TensorProto(dtype=99, tensor_shape=shape(1), float_val=[1.0]), FLOAT),
    "no tensor": (wire.TensorProto(), FLOAT),
}


@pytest.mark.parametrize("in_body", [True, False], ids=["in_body", "in_status"])
@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_feed_goes_where_failures_are_to_go(
    client: Wire, server_name: str, case: str, in_body: bool
) -> None:
    proto, dtype = MALFORMED[case]
    if in_body:
        code, text = feed_proto(client, proto, dtype)
    else:
        with pytest.raises(Refused) as caught:
            feed_proto(client, proto, dtype, in_body=False)
        code, text = caught.value.code, caught.value.message
    assert code == 3
    if server_name == "ours":
        assert text.startswith('RunStepRequest.feed[0] "x:0": TensorProto')
    else:
        assert text == "Invalid TensorProto for feed value 0"


def test_a_resource_handle_that_was_fetched_can_be_fed(client: Wire) -> None:
    handle = client.session(
        node("v", "VarHandleOp", dtype=FLOAT, shape=(), shared_name=b"fetched_handle"),
        const("four", 4.0),
        node("assign", "AssignVariableOp", "v", "four", dtype=FLOAT),
        node("p", "Placeholder", dtype=DataType.RESOURCE),
        node("read", "ReadVariableOp", "p", dtype=FLOAT),
    )
    client.step(handle, target=["assign"])
    (fetched,) = client.step(handle, ["v:0"]).tensor
    request = step_request(handle, ["read:0"])
    request.feed.add(name="p:0").tensor.CopyFrom(fetched.tensor)
    (answer,) = client.call("RunStep", request).tensor
    assert array(answer.tensor) == 4.0


def setup(client: Wire, handle: str, feeds: list[str], fetches: list[str], targets: tuple[str, ...] = ()) -> Any:
    """Set a partial run up; return its handle, or the refusal's code and text."""
    try:
        answer = client.call("PartialRunSetup", session_handle=handle, feed=feeds, fetch=fetches, target=targets)
    except Refused as error:
        return error.code, error.message
    return answer.partial_run_handle


def test_42_a_partial_run_goes_on_from_call_to_call(client: Wire, handle: str) -> None:
    run = setup(client, handle, ["x:0", "w:0"], ["y:0", "s:0"])
    assert run == "0"
    first = client.step(handle, ["y:0"], feed={"x:0": 1.0}, partial_run_handle=run)
    assert [entry.name for entry in first.tensor] == ["y:0"]
    assert not first.HasField("metadata")
    assert client.run(handle, partial_run_handle=run) == {}
    last = client.step(handle, ["s:0"], feed={"w:0": 2.0}, partial_run_handle=run)
    assert [float(array(entry.tensor)) for entry in last.tensor] == [3.0]
    assert last.HasField("metadata")
    gone = (3, "Must run PartialRunSetup before performing partial runs")
    assert client.in_body(handle, ["s:0"], partial_run_handle=run) == gone
    assert client.in_body(handle, ["s:0"], partial_run_handle="77") == gone


def test_42_refusals_leave_a_partial_run_as_it_was(client: Wire, handle: str) -> None:
    run = setup(client, handle, ["x:0", "w:0"], ["y:0", "s:0"])
    for feed, fetch, text in (
        ({"c:0": 1.0}, [], "The feed c:0 was not specified in partial_run_setup."),
        ({}, ["c:0"], "The fetch c:0 was not specified in partial_run_setup."),
        ({}, ["y:0"], "Fetch x:0 can't be computed from the feeds that have been fed so far."),
        ({"x:0": 1.0}, ["s:0"], "Fetch w:0 can't be computed from the feeds that have been fed so far."),
    ):
        assert client.in_body(handle, fetch, (), feed, partial_run_handle=run) == (3, text)


def test_42_a_setup_is_checked_like_a_step_and_counts_all_the_same(client: Wire, handle: str) -> None:
    assert setup(client, handle, ["x:0"], ["nono:0"]) == (5, "FetchOutputs node nono:0: not found")
    assert setup(client, handle, ["x:0"], []) == (3, "Must specify at least one target to fetch or execute.")
    assert setup(client, handle, ["x:0", "x:0"], ["y:0"]) == (3, 'Endpoint "x:0" fed more than once.')
    assert setup(client, handle, ["x:0"], ["y:0"]) == "3"
    assert setup(client, handle, ["zz:0"], ["y:0"]) == (5, "FeedInputs: unable to find feed output zz:0")
    text = "PruneForTargets: Some target nodes not found: nope "
    assert setup(client, handle, ["x:0"], ["y:0"], ("nope",)) == (5, text)


def test_42_a_wrong_type_ends_the_run(client: Wire, handle: str) -> None:
    run = setup(client, handle, ["x:0", "w:0"], ["y:0", "s:0"])
    assert client.in_body(handle, ["y:0"], feed={"x:0": np.int32(1)}, partial_run_handle=run) == (13, WRONG_TYPE)
    text = "Must run PartialRunSetup before performing partial runs"
    assert client.in_body(handle, ["y:0"], partial_run_handle=run) == (3, text)


def test_42_closing_the_session_ends_partial_runs(client: Wire, handle: str) -> None:
    run = setup(client, handle, ["x:0", "w:0"], ["y:0", "s:0"])
    client.step(handle, ["y:0"], feed={"x:0": 1.0}, partial_run_handle=run)
    started = time.monotonic()
    client.call("CloseSession", session_handle=handle)
    assert time.monotonic() - started < 2
    answer = client.in_body(handle, ["s:0"], feed={"w:0": 1.0}, partial_run_handle=run)
    assert answer == (10, f"Session {handle} is not found.")


def test_42_a_partial_run_has_no_collectives(client: Wire, handle: str) -> None:
    run = setup(client, handle, ["x:0"], ["y:0"])
    options = wire.RunOptions(experimental=wire.RunOptions.Experimental(collective_graph_key=3))
    text = "PartialRun does not support Collective ops.  collective_graph_key must be kNoCollectiveGraphKey."
    answer = client.in_body(handle, ["y:0"], feed={"x:0": 1.0}, partial_run_handle=run, options=options)
    assert answer == (3, text)


def make(client: Wire, handle: str, **options: Any) -> int:
    return int(client.call("MakeCallable", session_handle=handle, options=wire.CallableOptions(**options)).handle)


def test_43_callables_go_by_position_and_number_zero_works(client: Wire, handle: str) -> None:
    assert make(client, handle, feed=["w:0", "x:0"], fetch=["s:0", "y:0"]) == 0
    assert make(client, handle, target=["c"]) == 1
    assert client.run_callable(handle, 0, 2.0, 5.0) == [7.0, 5.0]
    assert client.run_callable(handle, 1) == []


def test_43_a_callable_that_is_gone_or_never_was_gives_the_text(client: Wire, handle: str) -> None:
    number = make(client, handle, fetch=["c:0"])
    for unknown in (1, 5):
        with pytest.raises(Refused, match=f"^3 No such callable handle: {unknown}$"):
            client.run_callable(handle, unknown)
    client.call("ReleaseCallable", session_handle=handle, handle=number)
    with pytest.raises(Refused, match="^3 Attempted to run callable after handle was released: 0$"):
        client.run_callable(handle, number)
    client.call("ReleaseCallable", session_handle=handle, handle=44)
    assert make(client, handle, fetch=["c:0"]) == 1


def test_43_a_wrong_type_goes_into_the_status(client: Wire, handle: str) -> None:
    number = make(client, handle, feed=["x:0"], fetch=["y:0"])
    with pytest.raises(Refused) as caught:
        client.run_callable(handle, number, 1)
    assert (caught.value.code, caught.value.message) == (13, WRONG_TYPE)
    request = wire.RunCallableRequest(session_handle=handle, handle=number)
    request.feed.add(dtype=1, tensor_content=b"12")
    code, _ = client.refusal("RunCallable", request)
    assert code == 3
    assert client.run_callable(handle, number, 3.0) == [3.0]


def test_43_what_only_ours_answers(targets: dict[str, str]) -> None:
    # TensorFlow's server dies of too few feeds, ignores surplus ones and mixes equal fetches up.
    with connect(targets["ours"]) as client:
        handle = client.session(placeholder("x"), identity("y", "x"))
        number = make(client, handle, feed=["x:0"], fetch=["y:0", "y:0"])
        assert client.run_callable(handle, number, 4.0) == [4.0, 4.0]
        for values in ((), (1.0, 2.0)):
            with pytest.raises(Refused, match=f"^3 {len(values)} feeds given where the step has 1$"):
                client.run_callable(handle, number, *values)
