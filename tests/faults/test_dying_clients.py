"""Clients that die, cancel, or run out of time in the middle of a step: their steps end, and nobody else notices."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from runtime import wire
from tests.cluster_tasks import Forks
from tests.faults.clients import endless_frames, endless_function, long_kernel, queue_nodes
from tests.faults.watch import is_idle, until, vitals, witness
from tests.graph.graphs import const
from tests.interop.raw import Refused, Wire, connect
from tests.master.harness import step_request
from tests.processes import ROOT, ServerProcess
from tests.server.raw_http2 import DATA, HEADERS, PREFACE, Raw, frame


@contextmanager
def doomed(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    """Run a client that says when its calls are under way; it is killed at the end at the latest."""
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def client_command(target: str, what: str) -> list[str]:
    return [sys.executable, "-m", "tests.faults.clients", target, what]


def test_a_client_killed_while_its_steps_wait_takes_nothing_along(target: ServerProcess, client: Wire) -> None:
    handle = client.session(*queue_nodes(b"of_the_dead"))
    with witness(target):
        with doomed(client_command(target.target, "blocked")) as process:
            process.send_signal(signal.SIGKILL)
            process.wait()
        # Whatever is put now must stay: nobody waits for it any more.
        until(lambda: stays(client, handle), "an element stays in the queue")
        client.step(handle, target=["close"])


def stays(client: Wire, handle: str) -> bool:
    """Whether an element that is put into the queue is still there a moment later."""
    client.step(handle, target=["put"], feed={"value:0": 1.0})
    time.sleep(0.1)
    return bool(client.run(handle, ["size:0"])["size:0"] > 0)


@pytest.mark.parametrize("what", ["frames", "function", "kernels"])
def test_a_client_killed_while_its_step_computes_leaves_no_work_behind(target: ServerProcess, what: str) -> None:
    with witness(target), doomed(client_command(target.target, what)) as process:
        busy = vitals(target).cpu_s
        until(lambda: vitals(target).cpu_s - busy > 0.1, "the step computes")
        process.send_signal(signal.SIGKILL)
        process.wait()
    until(lambda: is_idle(target), "the server rests")


def test_a_tensorflow_client_killed_in_both_ways(target: ServerProcess, client: Wire, tmp_path: Path,
                                                 tensorflow_forks: Forks) -> None:
    handle = client.session(*queue_nodes(b"of_the_dead_tf"))
    out = tmp_path / "out"
    with witness(target):
        program = tensorflow_forks.run(out, Path(__file__).with_name("dying_tf.py"), target.target)
        try:
            until(lambda: out.exists() and "ready" in out.read_text(), "its steps are under way", 60)
        finally:
            os.kill(program.pid, signal.SIGKILL)  # type: ignore[attr-defined]
            assert tensorflow_forks.wait(program.pid, 10) is not None  # type: ignore[attr-defined]
        until(lambda: stays(client, handle), "an element stays in the queue")
        client.step(handle, target=["close"])
    until(lambda: is_idle(target), "the server rests")


ENDLESS = {"frames": lambda: (endless_frames(), ()), "function": endless_function}


@pytest.mark.parametrize("what", ENDLESS)
def test_an_endless_loop_ends_at_its_timeout(target: ServerProcess, client: Wire, what: str) -> None:
    nodes, functions = ENDLESS[what]()
    handle = client.session(*nodes, functions=functions)
    options = wire.RunOptions(timeout_in_ms=400)
    with witness(target):
        started = time.monotonic()
        code, text = client.in_body(handle, ["end:0"], options=options)
        assert (code, 0.3 < time.monotonic() - started < 2.0) == (4, True), text
        assert client.run(handle, ["zero:0"]) == {"zero:0": 0}
    assert is_idle(target)


@pytest.mark.parametrize("what", [*ENDLESS, "kernels"])
def test_a_cancelled_call_stops_computing(target: ServerProcess, client: Wire, what: str) -> None:
    nodes, functions = ENDLESS[what]() if what in ENDLESS else (long_kernel(), ())
    handle = client.session(*nodes, functions=functions)
    with witness(target):
        call = client.future("RunStep", step_request(handle, ["end:0"]).SerializeToString())
        time.sleep(0.3)
        call.cancel()
        with pytest.raises(grpc.FutureCancelledError):
            call.result()
        until(lambda: is_idle_beside_witness(target), "the step has ended")
        client.call("CloseSession", session_handle=handle)


def is_idle_beside_witness(server: ServerProcess, seconds: float = 0.5) -> bool:
    """Whether a server does little more than what the second client's short steps take."""
    before = vitals(server).cpu_s
    time.sleep(seconds)
    return vitals(server).cpu_s - before < 0.5 * seconds


@pytest.mark.parametrize("what", [*ENDLESS, "blocked"])
def test_closing_a_session_ends_its_steps_with_the_text(target: ServerProcess, client: Wire, what: str) -> None:
    nodes, functions = ENDLESS[what]() if what in ENDLESS else (queue_nodes(b""), ())
    fetch = "end:0" if what in ENDLESS else "take:0"
    handle = client.session(*nodes, functions=functions)
    with witness(target):
        calls = [client.future("RunStep", step_request(handle, [fetch]).SerializeToString()) for _ in range(3)]
        time.sleep(0.3)
        started = time.monotonic()
        client.call("CloseSession", session_handle=handle)
        assert time.monotonic() - started < 2.0
        for call in calls:
            assert call.code().value[0] == 1
            assert call.details() == "Step was cancelled by an explicit call to `Session::Close()`."


@pytest.mark.parametrize("what", ENDLESS)
def test_steps_that_never_end_leave_room_for_the_first_step_of_another(target: ServerProcess, what: str) -> None:
    """More endless steps than the machine has processors; a step that was never measured needs a thread, too."""
    nodes, functions = ENDLESS[what]()
    with connect(target.target) as client, connect(target.target) as other:
        handle = client.session(*nodes, functions=functions)
        request = step_request(handle, ["end:0"]).SerializeToString()
        calls = [client.future("RunStep", request) for _ in range((os.cpu_count() or 1) + 6)]
        time.sleep(0.3)
        started = time.monotonic()
        second = other.session(const("c", 1.0), *queue_nodes(b""))
        assert other.run(second, ["c:0"]) == {"c:0": 1.0}
        waiting = other.future("RunStep", step_request(second, ["take:0"]).SerializeToString())
        other.step(second, target=["put"], feed={"value:0": 1.0})
        assert waiting.result(10)
        assert time.monotonic() - started < 3.0  # several steps, each of which is to take less than one second
        assert not any(call.done() for call in calls)
        client.call("CloseSession", session_handle=handle)
        assert {call.code().value[0] for call in calls} == {1}
    threads = vitals(target).threads
    until(lambda: is_idle(target), "the server rests")
    until(lambda: vitals(target).threads < threads, "the threads that were added end", 30)


def test_reset_ends_steps_that_wait(target: ServerProcess, client: Wire) -> None:
    handle = client.session(*queue_nodes(b""))
    calls = [client.future("RunStep", step_request(handle, ["take:0"]).SerializeToString()) for _ in range(3)]
    time.sleep(0.3)
    started = time.monotonic()
    client.call("Reset")
    assert time.monotonic() - started < 2.0
    for call in calls:
        assert call.code().value[0] == 1
        assert call.details() == "Step was cancelled by an explicit call to `Session::Close()`."
    assert client.in_body(handle, ["size:0"]) == (10, f"Session {handle} is not found.")
    again = client.session(const("c", 1.0))
    assert client.run(again, ["c:0"]) == {"c:0": 1.0}


def test_five_hundred_steps_that_wait_hold_no_thread(target: ServerProcess) -> None:
    before = vitals(target).threads
    with witness(target), connect(target.target) as client:
        handle = client.session(*queue_nodes(b"many_wait"))
        client.run(handle, ["size:0"])
        request = step_request(handle, ["take:0"]).SerializeToString()
        calls = [client.future("RunStep", request) for _ in range(500)]
        time.sleep(0.5)
        assert not any(call.done() for call in calls)
        assert vitals(target).threads < before + 30
        with connect(target.target) as other:
            second = other.session(*queue_nodes(b"many_wait"))
            other.step(second, target=["put"], feed={"value:0": 7.0})
            until(lambda: sum(call.done() for call in calls) == 1, "one of them has its element")
            other.step(second, target=["close"])
        for call in calls:
            assert call.code().value[0] in (0, 11)
        assert sum(call.code().value[0] == 0 for call in calls) == 1


def test_half_open_connections_cost_nobody_anything(target: ServerProcess) -> None:
    address = target.address
    host, _, port = address.rpartition(":")
    before = vitals(target).descriptors
    with witness(target):
        silent = [socket.create_connection((host, int(port)), 5) for _ in range(150)]
        stopped = [Raw(address, preface=False) for _ in range(50)]
        for raw in stopped:
            raw.send(PREFACE[:10])
        # Half a frame, a frame that announces 16 MB, headers that never end, a message that announces 4 GB.
        for number in range(50):
            raw = Raw(address)
            match number % 4:
                case 0:
                    raw.send(b"\0\0")
                case 1:
                    raw.send(b"\xff\xff\xff\0\0\0\0\0\1" + bytes(100))
                case 2:
                    raw.send(frame(HEADERS, 0, 1, b""))
                case _:
                    raw.call(
                        path=b"/tensorflow.MasterService/RunStep", body=b"\0\xff\xff\xff\xff" + bytes(50), end=False
                    )
                    raw.send(frame(DATA, 0, raw.stream, bytes(1000)))
            stopped.append(raw)
        assert vitals(target).rss < 1 << 30
        # Those that have not said that they speak HTTP/2 are closed by the server.
        until(lambda: vitals(target).descriptors < before + 80, "silent connections are closed", 30)
        for connection in silent:
            connection.close()
        for raw in stopped:
            raw.socket.close()
    until(lambda: vitals(target).descriptors <= before, "all descriptors are back")


def test_clients_that_vanish_in_the_middle_of_large_requests(target: ServerProcess) -> None:
    with witness(target):
        for _ in range(20):
            with Raw(target.address) as raw:
                raw.call(path=b"/tensorflow.MasterService/RunStep", body=b"\0\x10\0\0\0", end=False)
                for _ in range(3):
                    raw.send(frame(DATA, 0, raw.stream, bytes(16000)))
        assert_serves(target)


def assert_serves(server: ServerProcess) -> None:
    with connect(server.target) as client:
        assert client.run(client.session(const("c", 1.0)), ["c:0"]) == {"c:0": 1.0}


def test_a_step_of_a_closed_session_is_refused_at_once(client: Wire) -> None:
    handle = client.session(const("c", 1.0))
    client.call("CloseSession", session_handle=handle)
    with pytest.raises(Refused, match=rf"^10 Session {handle} is not found\.$"):
        client.step(handle, ["c:0"])
