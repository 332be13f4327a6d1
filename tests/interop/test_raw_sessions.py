"""Checklist 1, 3, 5, 6, 8, 11 to 18 and 24 in bytes of our own: what no TensorFlow client sends, on both servers."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from runtime import wire
from runtime.errors import Error
from tests.graph.graphs import FLOAT, INT32, const, function_def, graph_def, identity, node, placeholder
from tests.graph.test_prune import CASES
from tests.interop.programs import CPU, FROM
from tests.interop.raw import Refused, Wire, connect
from tests.master.harness import array, step_request

UNFED = "You must feed a value for placeholder tensor 'x' with dtype float\n\t [[{{node x}}]]"


@pytest.fixture
def client(targets: dict[str, str], server_name: str) -> Iterator[Wire]:
    """A channel of its own to the server whose turn it is."""
    with connect(targets[server_name]) as made:
        yield made


def test_1_methods_lie_under_tensorflow_alone(client: Wire) -> None:
    assert client.send("/tensorflow.MasterService/ListDevices", b"")
    for path in (
        "/tensorflow.grpc.MasterService/ListDevices",
        "/tensorflow.MasterService/NoSuchMethod",
        "/tensorflow.NoSuchService/ListDevices",
    ):
        with pytest.raises(Refused) as caught:
            client.send(path, b"")
        assert caught.value.code == 12


def test_3_a_failure_goes_into_the_body_when_asked_and_into_the_status_otherwise(client: Wire) -> None:
    handle = client.session(placeholder("x"), identity("y", "x"))
    assert client.in_body(handle, ["y:0"]) == (3, FROM + UNFED)
    assert client.refusal("RunStep", step_request(handle, ["y:0"])) == (3, FROM + UNFED)
    assert client.in_body("gone", ["y:0"]) == (10, "Session gone is not found.")
    assert client.refusal("RunStep", step_request("gone", ["y:0"])) == (10, "Session gone is not found.")
    assert client.in_body(handle, ["nono:0"]) == (5, "FetchOutputs node nono:0: not found")


def received_twice(client: Wire, method: str, **fields: Any) -> bool:
    """Whether a request is refused as one that came before."""
    code, text = client.refusal(method, **fields)
    return code == 10 and text.startswith(f"The same {method} (Master) request was received twice. ")


def test_5_a_repeated_request_is_aborted_and_one_without_an_id_runs_again(client: Wire) -> None:
    handle = client.session(placeholder("x"), const("c", 1.0), identity("y", "x"))
    first = time.time_ns()
    for request_id in (first, -first):
        step = {"session_handle": handle, "fetch": ["c:0"], "request_id": request_id}
        assert client.call("RunStep", **step).tensor
        assert received_twice(client, "RunStep", **step)
        assert received_twice(client, "RunStep", **step)
    for _ in range(2):
        assert client.run(handle, ["c:0"], request_id=0) == {"c:0": 1.0}
    # All methods share one table.
    assert received_twice(client, "PartialRunSetup", session_handle=handle, fetch=["y:0"], request_id=first)
    options = wire.CallableOptions(fetch=["c:0"])
    assert received_twice(client, "MakeCallable", session_handle=handle, options=options, request_id=first)
    assert received_twice(client, "RunCallable", session_handle=handle, request_id=first)


def test_6_the_id_is_looked_at_before_the_session(client: Wire) -> None:
    step = {"session_handle": "gone", "fetch": ["c:0"], "request_id": time.time_ns()}
    assert client.refusal("RunStep", **step) == (10, "Session gone is not found.")
    assert received_twice(client, "RunStep", **step)


def queue_nodes() -> list[Any]:
    return [
        node("q", "FIFOQueueV2", component_types=[FLOAT]),
        placeholder("value"),
        node("put", "QueueEnqueueV2", "q", "value", Tcomponents=[FLOAT]),
        node("take", "QueueDequeueV2", "q", component_types=[FLOAT]),
        node("size", "QueueSizeV2", "q"),
    ]


def test_8_a_call_whose_deadline_passes_or_that_is_cancelled_takes_no_element(client: Wire) -> None:
    handle = client.session(*queue_nodes())
    request = step_request(handle, ["take:0"]).SerializeToString()
    with pytest.raises(Refused) as caught:
        client.send("RunStep", request, timeout_s=0.3)
    assert caught.value.code == 4
    waiting = client.future("RunStep", request)
    time.sleep(0.2)
    waiting.cancel()
    with pytest.raises(grpc.FutureCancelledError):
        waiting.result()
    time.sleep(0.2)
    client.step(handle, target=["put"], feed={"value:0": 3.0})
    assert client.run(handle, ["size:0"]) == {"size:0": 1}
    assert client.run(handle, ["take:0"]) == {"take:0": 3.0}


def test_a_queue_without_a_shared_name_is_its_sessions_own(client: Wire) -> None:
    first, second = client.session(*queue_nodes()), client.session(*queue_nodes())
    client.step(first, target=["put"], feed={"value:0": 3.0})
    assert client.run(second, ["size:0"]) == {"size:0": 0}
    waiting = client.future("RunStep", step_request(second, ["take:0"]).SerializeToString())
    client.call("CloseSession", session_handle=first)
    client.step(second, target=["put"], feed={"value:0": 4.0})
    (answer,) = wire.RunStepResponse.FromString(waiting.result()).tensor
    assert array(answer.tensor) == 4.0


def test_11_an_empty_graph_makes_a_session_and_devices_are_all_local(client: Wire) -> None:
    handle = client.session()
    answers = [client.call("ListDevices", session_handle=handle), client.call("ListDevices")]
    for answer in answers:
        (device,) = answer.local_device
        assert not answer.remote_device
        assert (device.name, device.device_type, device.memory_limit) == (CPU, "CPU", 268435456)
        assert device.HasField("locality")
        assert device.incarnation == answers[0].local_device[0].incarnation != 0
    text = "Session gone is not found. Possibly, this master has restarted."
    assert client.refusal("ListDevices", session_handle="gone") == (3, text)


def test_12_handles_are_unique_and_unknown_ones_aborted(client: Wire) -> None:
    handles = {client.session(const("c", 1.0)) for _ in range(10)}
    assert len(handles) == 10
    assert all(re.fullmatch(r"[0-9a-f]{16}", handle) for handle in handles)
    for method in ("RunStep", "ExtendSession", "PartialRunSetup", "MakeCallable", "RunCallable", "ReleaseCallable"):
        assert client.refusal(method, session_handle="gone") == (10, "Session gone is not found."), method


def test_13_a_wrong_version_changes_nothing(client: Wire) -> None:
    handle = client.session(const("c", 1.0))
    with pytest.raises(Refused) as caught:
        client.extend(handle, 3, const("d", 2.0))
    assert (caught.value.code, caught.value.message) == (10, "Current version is 0 but caller expected 3.")
    assert client.extend(handle, 0, const("d", 2.0)) == 1
    assert client.run(handle, ["d:0"]) == {"d:0": 2.0}


EXTENSIONS = {
    "existing node": (
        [const("d", 2.0), const("c", 1.0)],
        3,
        "GraphDef argument to Extend includes node 'c', which was created by a previous call to Create or Extend in "
        "this session.",
    ),
    "unknown input": ([identity("f", "nowhere")], 3, "Node 'f': Unknown input node 'nowhere'"),
    "same name twice": ([const("d", 2.0), const("d", 1.0)], 3, "Node 'd' is not unique"),
    "unknown op": ([node("f", "NoSuchOp")], 5, "Op type not registered 'NoSuchOp' in binary running on "),
    "bad name": ([const("e e", 2.0)], 3, "Illegal op name 'e e'\n\t [[{{node e e}}]]"),
    "internal name": ([const("_e", 2.0)], 3, "Illegal op name '_e'\n\t [[{{node _e}}]]"),
    "bad input name": ([identity("f", "c:x")], 3, "Illegal op input name 'c:x'\n\t [[{{node f}}]]"),
    "control before data": (
        [node("f", "AddV2", "^c", "c", "c", T=FLOAT)],
        3,
        "All control inputs must follow all data inputs\n\t [[{{node f}}]]",
    ),
    "slot": (
        [identity("f", "c:3")],
        3,
        "Node 'f': Connecting to invalid output 3 of source node c which has 1 outputs.",
    ),
    "type": (
        [identity("f", "c", dtype=INT32)],
        3,
        "Input 0 of node f was passed float from c:0 incompatible with expected int32.",
    ),
    "cycle": ([identity("f", "h"), identity("h", "f")], 3, "2 nodes in a cycle"),
    "device": ([const("d", 1.0, device="bad name")], 3, "Malformed device specification 'bad name' in node: "),
}


@pytest.mark.parametrize("case", EXTENSIONS)
def test_14_15_after_a_failed_extension_the_same_version_goes_on(client: Wire, case: str) -> None:
    nodes, code, text = EXTENSIONS[case]
    handle = client.session(const("c", 1.0))
    with pytest.raises(Refused) as caught:
        client.extend(handle, 0, *nodes)
    assert (caught.value.code, caught.value.message[: len(text)]) == (code, text)
    # Nothing of it has been added, the good nodes before the bad one neither.
    assert client.extend(handle, 0, const("d", 5.0), identity("f", "d")) == 1
    assert client.run(handle, ["f:0"]) == {"f:0": 5.0}


def test_an_unknown_attr_is_kept_and_a_consumer_of_the_future_refused(client: Wire) -> None:
    handle = client.session(const("c", 1.0))
    assert client.extend(handle, 0, node("f", "Identity", "c", T=FLOAT, zork=3)) == 1
    assert client.run(handle, ["f:0"]) == {"f:0": 1.0}
    graph = graph_def(const("d", 1.0))
    graph.versions.min_consumer = 100000
    code, text = client.refusal("ExtendSession", session_handle=handle, graph_def=graph, current_graph_version=1)
    assert (code, text[:57]) == (3, "GraphDef min consumer version 100000 above current versio")
    code, text = client.refusal("CreateSession", graph_def=graph)
    assert (code, text[:57]) == (3, "GraphDef min consumer version 100000 above current versio")


def test_a_function_may_come_again_but_not_changed(client: Wire) -> None:
    function = function_def("f", {"x": FLOAT}, {"y": (FLOAT, "x")}, [])
    other = function_def("f", {"x": INT32}, {"y": (INT32, "x")}, [])
    handle = client.session(const("c", 1.0), functions=(function,))
    assert client.extend(handle, 0, functions=(function,)) == 1
    with pytest.raises(Refused) as caught:
        client.extend(handle, 1, functions=(other,))
    assert (caught.value.code, caught.value.message) == (
        3,
        "Cannot add function 'f' because a different function with the same name already exists.",
    )
    assert client.extend(handle, 1, node("call", "f", "c")) == 2
    assert client.run(handle, ["call:0"]) == {"call:0": 1.0}


def test_16_closing_an_unknown_session_is_aborted(client: Wire) -> None:
    handle = client.session()
    client.call("CloseSession", session_handle=handle)
    for unknown in (handle, "", "gone"):
        text = f"Session {unknown} is not found. Possibly, this master has restarted."
        assert client.refusal("CloseSession", session_handle=unknown) == (10, text)


def test_17_18_reset_closes_every_session_and_answers_whatever_it_is_told(client: Wire) -> None:
    handle = client.session(const("c", 1.0))
    client.call("Reset", container=["never_there"])
    assert client.refusal("RunStep", step_request(handle, ["c:0"])) == (10, f"Session {handle} is not found.")
    client.call("Reset")
    client.call("Reset")


# The texts of a feed by a control name and of one endpoint in two spellings are our own.
ALIKE = [case for case in CASES if "^ca" not in case[0] and case[0] != ["x", "x:0"]]
OURS_ALONE = [case for case in CASES if case not in ALIKE]


@pytest.mark.parametrize(("feeds", "fetches", "targets_", "kind", "text"), ALIKE)
def test_24_each_text_comes_verbatim_with_its_code(
    client: Wire, feeds: list[str], fetches: list[str], targets_: list[str], kind: type[Error], text: str
) -> None:
    handle = client.session(
        const("ca", 1.0),
        placeholder("x"),
        identity("y", "x"),
        node("nop", "NoOp"),
        node("v", "VariableV2", dtype=FLOAT, shape=()),
    )
    assert client.in_body(handle, fetches, targets_, [(name, 1.0) for name in feeds]) == (kind.code, text)


def test_24_texts_of_our_own(targets: dict[str, str]) -> None:
    assert OURS_ALONE
    with connect(targets["ours"]) as client:
        handle = client.session(const("ca", 1.0), placeholder("x"), identity("y", "x"))
        for feeds, fetches, aims, kind, text in OURS_ALONE:
            assert client.in_body(handle, fetches, aims, [(name, 1.0) for name in feeds]) == (kind.code, text)
