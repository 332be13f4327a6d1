"""Dozens of steps that never end: others are served beside them, and each of them ends when it is told to."""

from __future__ import annotations

import time

import pytest

from runtime import wire
from tests.faults.clients import endless_frames, endless_function
from tests.faults.watch import is_idle, until, vitals, witness
from tests.interop.raw import Wire, connect
from tests.master.harness import step_request
from tests.processes import ServerProcess

MANY = 24
DEADLINE_EXCEEDED, CANCELLED = 4, 1
# Without turns the second client waits half a second and more, as a rule.
LONGEST_S = 0.4


def endless(client: Wire, kind: str) -> str:
    nodes, functions = (endless_frames(), ()) if kind == "frames" else endless_function()
    return client.session(*nodes, functions=functions)


@pytest.mark.parametrize("kind", ["frames", "functions"])
def test_many_endless_loops_leave_others_their_turn_and_keep_their_deadline(
    target: ServerProcess, client: Wire, kind: str
) -> None:
    handle = endless(client, kind)
    threads = vitals(target).threads
    limit_s = 2.0
    options = wire.RunOptions(timeout_in_ms=int(1000 * limit_s))
    request = step_request(handle, ["end:0"], options=options, store_errors_in_response_body=True)
    with connect(target.target) as crowd, witness(target, LONGEST_S):
        started = time.monotonic()
        calls = [crowd.future("RunStep", request.SerializeToString(), 60.0) for _ in range(MANY)]
        answers = [wire.RunStepResponse.FromString(call.result()) for call in calls]
        assert time.monotonic() - started < limit_s + 2.0
    assert {answer.status_code for answer in answers} == {DEADLINE_EXCEEDED}
    until(lambda: is_idle(target), "idle")
    until(lambda: vitals(target).threads <= threads + 3, "the threads as before")


@pytest.mark.parametrize("end", ["cancel", "close"])
def test_many_endless_loops_end_with_their_client_or_session(target: ServerProcess, client: Wire, end: str) -> None:
    handle = endless(client, "functions")
    request = step_request(handle, ["end:0"]).SerializeToString()
    with connect(target.target) as crowd:
        calls = [crowd.future("RunStep", request, 60.0) for _ in range(MANY)]
        time.sleep(0.7)
        assert not any(call.done() for call in calls)
        if end == "cancel":
            for call in calls:
                call.cancel()
        else:
            started = time.monotonic()
            client.call("CloseSession", session_handle=handle)
            assert time.monotonic() - started < 2.0
            assert {call.exception(10).code().value[0] for call in calls} == {CANCELLED}
        until(lambda: is_idle(target), "idle", 5.0)
