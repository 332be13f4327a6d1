"""The next steps of a server, for whoever asks, and nothing for anybody else."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import runtime
from runtime import wire
from runtime._ext.executor import StepContext, StepTrace
from runtime.client.channels import Access
from runtime.client.tracing import trace_steps
from runtime.errors import DeadlineExceeded, InvalidArgument, NotFound, Unavailable
from runtime.master.master import Master
from runtime.observe.recorder import RecordedStep, Recording, StepRecorder
from runtime.observe.service import Observer

NOBODY = Access()


def step(number: int) -> StepContext:
    return StepContext(number, None, StepTrace())


def recording(num_steps: int, session: str = "") -> tuple[Recording, list[RecordedStep]]:
    taken: list[RecordedStep] = []
    return Recording(num_steps, session, taken.append), taken


SELECTION: Any = object()


def test_every_recording_gets_the_steps_it_asked_for() -> None:
    recorder = StepRecorder()
    assert not recorder.is_active
    (one, ones), (two, twos) = recording(1), recording(2)
    recorder.add(one)
    recorder.add(two)
    for number in range(3):
        context = step(number)
        claimed = recorder.claim("s")
        recorder.begin(context, claimed, "s", SELECTION)
        recorder.end(context)
    assert [len(ones), len(twos)] == [1, 2]
    assert ones[0].trace is twos[0].trace
    assert not recorder.is_active


def test_recording_of_one_session_leaves_the_others_alone() -> None:
    recorder = StepRecorder()
    wish, _ = recording(1, "mine")
    recorder.add(wish)
    assert recorder.claim("other") == ()
    assert recorder.is_active
    assert recorder.claim("mine") == (wish,)
    assert not recorder.is_active


def test_removed_recording_keeps_what_it_claimed() -> None:
    recorder = StepRecorder()
    wish, taken = recording(5)
    recorder.add(wish)
    context = step(1)
    recorder.begin(context, recorder.claim("s"), "s", SELECTION)
    recorder.remove(wish)
    assert not recorder.is_active
    recorder.end(context)
    assert [found.session_handle for found in taken] == ["s"]


def test_traced_step_that_nobody_claimed_goes_to_nobody() -> None:
    StepRecorder().end(step(1))


class Client:
    """A session that runs one step again and again until it is stopped."""

    def __init__(self, target: str) -> None:
        graph = runtime.Graph()
        self.x = graph.placeholder("float32", [2], name="x")
        self.y = graph.square(self.x + 1.0, name="y")
        self.session = runtime.Session(target, graph)
        self.run()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop)

    def run(self) -> None:
        self.session.run(self.y, {self.x: np.ones(2, np.float32)})

    def _loop(self) -> None:
        while not self._stop.is_set():
            self.run()

    def __enter__(self) -> Client:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._thread.join(20)
        self.session.close()


@pytest.fixture
def client(server: str) -> Iterator[Client]:
    with Client(server) as running:
        yield running


def test_next_steps_of_a_server_are_traced(server: str, client: Client) -> None:
    found = list(trace_steps(server, NOBODY, 3, "", 20))
    assert len(found) == 3
    for traced in found:
        assert (list(traced.feed), list(traced.fetch), list(traced.target)) == (["x:0"], ["y:0"], [])
        (device,) = traced.step_stats.dev_stats
        assert "y" in {entry.node_name for entry in device.node_stats}
        assert traced.num_dropped_nodes == 0
    assert len({traced.session_handle for traced in found}) == 1
    handle = found[0].session_handle
    (again,) = trace_steps(server, NOBODY, 1, handle, 20)
    assert again.session_handle == handle


def test_two_watchers_get_their_steps(server: str, client: Client) -> None:
    counts: list[int] = []
    watchers = [threading.Thread(target=lambda: counts.append(len(list(trace_steps(server, NOBODY, 4, "", 20)))))
                for _ in range(2)]
    for watcher in watchers:
        watcher.start()
    for watcher in watchers:
        watcher.join(30)
    assert counts == [4, 4]


def test_no_step_in_time_is_an_error() -> None:
    with runtime.Server() as quiet:
        started = time.monotonic()
        with pytest.raises(DeadlineExceeded, match="ran fewer than 1 steps within 0.2 s"):
            list(trace_steps(quiet.target, NOBODY, 1, "", 0.2))
        assert time.monotonic() - started < 10


def test_watcher_that_leaves_ends_its_recording() -> None:
    with runtime.Server() as server:
        with pytest.raises(DeadlineExceeded):
            list(trace_steps(server.target, NOBODY, 1, "", 0.1))
        with Client(server.target):
            found = list(trace_steps(server.target, NOBODY, 1, "", 20))
        assert len(found) == 1


@pytest.mark.parametrize("num_steps", [0, 1001, (1 << 32) - 1])
def test_number_of_steps_is_bounded(server: str, num_steps: int) -> None:
    with pytest.raises(InvalidArgument, match=f"num_steps must be 1 to 1000, got {num_steps}"):
        list(trace_steps(server, NOBODY, num_steps, "", 5))


def test_unknown_session_is_told(server: str) -> None:
    with pytest.raises(NotFound, match="no session is called 'nobody' here"):
        list(trace_steps(server, NOBODY, 1, "nobody", 5))


def test_missing_server_is_told() -> None:
    with pytest.raises(Unavailable, match=r"grpc://127\.0\.0\.1:9 cannot be reached"):
        list(trace_steps("grpc://127.0.0.1:9", NOBODY, 1, "", 5))


async def _in_this_thread(work: Callable[[], bytes]) -> bytes:
    return work()


def test_draining_ends_the_streams() -> None:
    async def watch() -> int:
        with Master() as master:
            observer = Observer(master, _in_this_thread)
            request = wire.runtime_v1.TraceStepsRequest(num_steps=1).SerializeToString()
            asyncio.get_running_loop().call_soon(observer.drain)
            found = [answer async for answer in observer.trace_steps(request, None)]
            assert not master.recorder.is_active
            return len(found)

    assert asyncio.run(asyncio.wait_for(watch(), 20)) == 0


def test_request_that_is_no_message_is_refused() -> None:
    async def ask() -> None:
        with Master() as master:
            await anext(Observer(master, _in_this_thread).trace_steps(b"\x0a\xff", None))

    with pytest.raises(InvalidArgument, match=r"no runtime\.v1\.TraceStepsRequest message"):
        asyncio.run(ask())
