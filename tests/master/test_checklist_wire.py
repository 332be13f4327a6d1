"""Checklist 3 to 10: how failures, repeats, limits and cancellation show on the wire."""

from __future__ import annotations

import time
from concurrent.futures import CancelledError

import numpy as np
import pytest

from runtime import wire
from runtime.errors import Aborted, Cancelled, DeadlineExceeded, Internal, InvalidArgument
from tests.graph.graphs import FLOAT, const, identity, node, placeholder
from tests.master.harness import Caller, array, needs_queues, step_request, wait_until_waiting

FROM = "From /job:local/replica:0/task:0:\n"


def queue_nodes() -> list[object]:
    return [
        node("q", "FIFOQueueV2", component_types=[FLOAT]),
        placeholder("value"),
        node("put", "QueueEnqueueV2", "q", "value", Tcomponents=[FLOAT]),
        node("take", "QueueDequeueV2", "q", component_types=[FLOAT]),
        node("size", "QueueSizeV2", "q"),
    ]


def test_3_a_failure_goes_into_the_body_when_asked_and_into_the_status_otherwise(master: Caller) -> None:
    handle = master.session(placeholder("x"), identity("y", "x"))
    response = master.step(handle, ["y:0"], store_errors_in_response_body=True)
    assert response.status_code == InvalidArgument.code
    assert response.status_error_message == (
        f"{FROM}You must feed a value for placeholder tensor 'x' with dtype float\n\t [[{{{{node x}}}}]]"
    )
    assert not response.tensor
    with pytest.raises(InvalidArgument) as caught:
        master.step(handle, ["y:0"])
    assert str(caught.value) == response.status_error_message


def test_3_a_signature_that_is_wrong_goes_the_same_two_ways(master: Caller) -> None:
    handle = master.session(const("c", 1.0))
    response = master.step(handle, ["nono:0"], store_errors_in_response_body=True)
    assert (response.status_code, response.status_error_message) == (5, "FetchOutputs node nono:0: not found")
    response = master.step("gone", ["c:0"], store_errors_in_response_body=True)
    assert (response.status_code, response.status_error_message) == (10, "Session gone is not found.")


def test_5_a_repeated_request_is_aborted_and_one_without_an_id_runs_again(master: Caller) -> None:
    handle = master.session(const("c", 1.0))
    for request_id in (77, -77):
        assert master.run(handle, ["c:0"], request_id=request_id) == [1.0]
        with pytest.raises(Aborted) as caught:
            master.run(handle, ["c:0"], request_id=request_id)
        assert str(caught.value).startswith("The same RunStep (Master) request was received twice. ")
        assert len(str(caught.value)) < 200
    for _ in range(2):
        assert master.run(handle, ["c:0"], request_id=0) == [1.0]


def test_5_other_methods_track_their_ids_in_the_same_table(master: Caller) -> None:
    handle = master.session(placeholder("x"), identity("y", "x"))
    signature = {"session_handle": handle, "feed": ["x:0"], "fetch": ["y:0"], "request_id": 5}
    master.call("PartialRunSetup", **signature)
    with pytest.raises(Aborted, match=r"^The same PartialRunSetup \(Master\) request was received twice\. "):
        master.call("PartialRunSetup", **signature)
    options = wire.CallableOptions(feed=["x:0"], fetch=["y:0"])
    with pytest.raises(Aborted, match=r"^The same MakeCallable \(Master\) request was received twice\. "):
        master.call("MakeCallable", session_handle=handle, options=options, request_id=5)
    with pytest.raises(Aborted, match=r"^The same RunCallable \(Master\) request was received twice\. "):
        master.call("RunCallable", session_handle=handle, request_id=5)


def test_6_the_id_is_looked_at_before_the_session(master: Caller) -> None:
    with pytest.raises(Aborted, match="Session gone is not found"):
        master.step("gone", ["c:0"], request_id=9)
    with pytest.raises(Aborted, match="received twice"):
        master.step("gone", ["c:0"], request_id=9)


@needs_queues
def test_7_a_blocked_step_ends_at_its_timeout_and_loses_no_element(master: Caller) -> None:
    handle = master.session(*queue_nodes())
    started = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        master.step(handle, ["take:0"], options=wire.RunOptions(timeout_in_ms=300))
    assert 0.25 < time.monotonic() - started < 2
    master.step(handle, target=["put"], feed={"value:0": 5.0})
    assert master.run(handle, ["take:0"]) == [5.0]


@needs_queues
def test_7_the_sessions_own_limit_holds_where_a_step_sets_none(master: Caller) -> None:
    handle = master.session(*queue_nodes(), operation_timeout_in_ms=200)
    response = master.step(handle, ["take:0"], store_errors_in_response_body=True)
    assert response.status_code == DeadlineExceeded.code


@needs_queues
def test_8_a_cancelled_call_ends_its_step(master: Caller) -> None:
    handle = master.session(*queue_nodes())
    waiting = master.start_step(handle, ["take:0"])
    wait_until_waiting(master, handle)
    waiting.cancel()
    with pytest.raises(CancelledError):
        waiting.result(10)
    session = master.service.master.sessions[handle]
    deadline = time.monotonic() + 10
    while session._running:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    master.step(handle, target=["put"], feed={"value:0": 6.0})
    assert master.run(handle, ["size:0"]) == [1]


def test_9_a_kernels_error_names_its_task_and_its_node_once(master: Caller) -> None:
    handle = master.session(placeholder("x"), const("shape", [3]), node("r", "Reshape", "x", "shape", T=FLOAT))
    for _ in range(2):
        with pytest.raises(InvalidArgument) as caught:
            master.step(handle, ["r:0"], feed={"x:0": np.zeros(4, np.float32)})
        assert str(caught.value).startswith(FROM)
        assert str(caught.value).count("[[{{node r}}]]") == 1
        assert str(caught.value).endswith("\n\t [[{{node r}}]]")


@needs_queues
def test_10_closing_ends_a_blocked_step_with_the_text_and_answers(master: Caller) -> None:
    handle = master.session(*queue_nodes())
    waiting = [master.start_step(handle, ["take:0"]) for _ in range(3)]
    wait_until_waiting(master, handle)
    master.call("CloseSession", session_handle=handle)
    for step in waiting:
        with pytest.raises(Cancelled) as caught:
            step.result(10)
        assert str(caught.value) == "Step was cancelled by an explicit call to `Session::Close()`."
    with pytest.raises(Aborted, match=f"^Session {handle} is not found.$"):
        master.step(handle, ["size:0"])


METHODS = sorted(wire.SERVICES["tensorflow.MasterService"])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("request_bytes", [b"\xff\xff\xff", b"\x0a\x7fabc", b"\x0a\x02\xff\xfe", b"\x07"])
def test_malformed_bytes_are_refused_and_the_message_named(master: Caller, method: str, request_bytes: bytes) -> None:
    with pytest.raises(InvalidArgument, match=f"{method}Request"):
        master.send(method, request_bytes).result(10)
    assert master.run(master.session(const("c", 1.0)), ["c:0"]) == [1.0]


def test_malformed_run_options_are_refused(master: Caller) -> None:
    handle = master.session(const("c", 1.0))
    request = step_request(handle, ["c:0"]).SerializeToString() + b"\x2a\x02\xff\xff"
    with pytest.raises(InvalidArgument, match="RunOptions"):
        master.send("RunStep", request).result(10)


def test_29_a_feed_of_another_type_is_internal_with_the_text(master: Caller) -> None:
    handle = master.session(placeholder("x"), identity("y", "x"))
    for _ in range(2):
        with pytest.raises(Internal) as caught:
            master.step(handle, ["y:0"], feed={"x:0": np.int32(1)})
        assert str(caught.value) == (
            f"{FROM}Output 0 of type int32 does not match declared output type float for node {{{{node _recv_x_0}}}}"
        )
    assert master.run(handle, ["y:0"], feed={"x:0": 2.0}) == [2.0]


def test_debug_watches_are_not_supported_and_say_so(master: Caller) -> None:
    handle = master.session(const("c", 1.0))
    options = wire.RunOptions()
    options.debug_options.debug_tensor_watch_opts.add(node_name="c")
    response = master.step(handle, ["c:0"], options=options, store_errors_in_response_body=True)
    assert response.status_code == 12
    assert "debug_options" in response.status_error_message


def test_the_answer_names_each_fetch_as_it_was_asked_for(master: Caller) -> None:
    handle = master.session(const("b", 1.0), const("a", 2.0))
    response = master.step(handle, ["b:0", "a", "b:0", "a:0"])
    assert [(entry.name, float(array(entry.tensor))) for entry in response.tensor] == [
        ("b:0", 1.0),
        ("a", 2.0),
        ("a:0", 2.0),
    ]
