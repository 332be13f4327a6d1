"""Feeds and fetches beside the messages of a session: by every road, in every form of step, whatever breaks when."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

import runtime
from runtime import transport, wire
from runtime._ext.step_codec import ResponsePlan, encode_run_step_request, scan_last, scan_run_step_response
from runtime.client.tensor_roads import TensorRoads
from runtime.dtypes import to_numpy
from runtime.errors import DeadlineExceeded, InvalidArgument, NotFound, ResourceExhausted, Unavailable
from runtime.transport import arrays, borrower, elsewhere, handover, step_tensors
from runtime.transport.lender import lender
from runtime.transport.place import Place
from runtime.transport.step_tensors import StepTensors
from tests import peers
from tests.processes import free_port, start_server

GIB = 1 << 30
STEPS = "/tensorflow.MasterService/RunStep"


@pytest.fixture(scope="module")
def server() -> Iterator[runtime.Server]:
    with runtime.Server(services=("graph",), grace_s=0) as made:
        yield made


@pytest.fixture(autouse=True)
def no_leases() -> None:
    """End what other tests have lent to nobody."""
    for number in list(lender()._waiting):
        lender().revoke(number)


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], StepTensors]]:
    """The tensors beside the messages of the last server that was made, which must hold nothing in the end."""
    made: list[StepTensors] = []
    begin = StepTensors.start

    def start(self: StepTensors) -> None:
        made.append(self)
        begin(self)

    monkeypatch.setattr(StepTensors, "start", start)
    yield lambda: made[-1]
    for one in made:
        until(lambda one=one: one.num_held == 0 and one._account.used == 0)  # type: ignore[misc]


def until(condition: Callable[[], Any], timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


def roads_of(session: runtime.Session) -> TensorRoads:
    session.run(session.graph.constant(1.0))
    found = session._transport._roads  # type: ignore[attr-defined]
    assert isinstance(found, TensorRoads)
    return found


@contextlib.contextmanager
def session_on(target: str, road: str, monkeypatch: pytest.MonkeyPatch, **options: Any) -> Iterator[runtime.Session]:
    """A session for which every number of more than a few bytes is large."""
    monkeypatch.setattr(elsewhere, "LARGE_BYTES", 16)
    monkeypatch.setattr(elsewhere, "STREAM_BYTES", 16)
    with runtime.Session(target, **options) as session:
        roads_of(session)._can_share = road == "shared memory"
        yield session


ROADS = ["shared memory", "stream"]


@pytest.mark.parametrize("road", ROADS)
@pytest.mark.parametrize("dtype", ["float32", "int64", "uint8", "bool", "complex64", "bfloat16"])
def test_feeds_and_fetches_take_the_road(server: runtime.Server, monkeypatch: pytest.MonkeyPatch, road: str, dtype: str
                                         ) -> None:
    with session_on(server.target, road, monkeypatch) as session:
        graph = session.graph
        x = graph.placeholder(dtype, [None, None], name="x")
        value = (np.arange(600).reshape(20, 30) % 7).astype(to_numpy(x.dtype))
        before = {way: transport.totals()[way].get(road, transport.Totals()) for way in ("sent", "received")}
        found = session.run(graph.identity(x), {x: value})
        assert (found == value).all() and found.dtype == value.dtype
        found[0, 0] = value[1, 1]  # the caller's to change
        for way, old in before.items():
            new = transport.totals()[way][road]
            assert new.bytes - old.bytes >= value.nbytes, way


@pytest.mark.parametrize("road", ROADS)
@pytest.mark.parametrize("value", [
    np.arange(24.0).reshape(4, 6)[::2, 1::2], np.asfortranarray(np.arange(24.0).reshape(4, 6)),
    np.arange(24).astype(">f8").reshape(4, 6), np.zeros((0, 5)), np.float64(3.0), np.arange(2.0),
], ids=["steps", "fortran", "big-endian", "empty", "scalar", "small"])
def test_arrays_of_any_kind_arrive(server: runtime.Server, monkeypatch: pytest.MonkeyPatch, road: str, value: Any
                                   ) -> None:
    with session_on(server.target, road, monkeypatch) as session:
        x = session.graph.placeholder("float64", None, name="x")
        found = session.run([session.graph.identity(x), x * 2.0], {x: value})
        assert np.array_equal(found[0], value) and np.array_equal(found[1], value * 2)


@pytest.mark.parametrize("road", ROADS)
def test_large_small_and_strings_go_side_by_side(server: runtime.Server, monkeypatch: pytest.MonkeyPatch, road: str
                                                 ) -> None:
    with session_on(server.target, road, monkeypatch) as session:
        graph = session.graph
        x = graph.placeholder("float32", None, name="x")
        y = graph.placeholder("string", None, name="y")
        z = graph.placeholder("float32", None, name="z")
        text = np.array([b"a" * 100, b"b"], object)
        found = session.run({"z": graph.identity(z), "y": graph.identity(y), "sum": graph.reduce_sum(x), "x": x + x},
                            {y: text, x: np.arange(50.0), z: 1.5})
        assert found["z"] == 1.5 and found["y"].tolist() == text.tolist() and found["sum"] == 1225
        assert (found["x"] == 2 * np.arange(50)).all()


@pytest.mark.parametrize("road", ROADS)
def test_callables_and_partial_runs_take_it_too(server: runtime.Server, monkeypatch: pytest.MonkeyPatch, road: str
                                                ) -> None:
    with session_on(server.target, road, monkeypatch) as session:
        graph = session.graph
        x = graph.placeholder("float32", [None], name="x")
        y = graph.placeholder("float32", [None], name="y")
        value = np.arange(40, dtype=np.float32)
        with session.make_callable([x + y, graph.reduce_sum(x)], [x, y]) as add:
            for factor in (1, 2, 3):  # a step that is known runs within the loop's callback
                total, first = add(value * factor, value)
                assert (total == value * (factor + 1)).all() and first == 780 * factor
        double, both = x * 2.0, x + y
        handle = session.partial_run_setup([double, both], [x, y])
        assert (session.partial_run(handle, double, {x: value}) == value * 2).all()
        assert (session.partial_run(handle, both, {y: value}) == value * 2).all()


def test_fetches_alone_take_it_and_known_steps_go_on_doing_so(server: runtime.Server, monkeypatch: pytest.MonkeyPatch
                                                              ) -> None:
    with session_on(server.target, "shared memory", monkeypatch) as session:
        constant = session.graph.constant(np.arange(1000))
        before = transport.totals()["received"]["shared memory"].transfers
        for _ in range(4):
            found = session.run(constant)
            found += 1  # the constant stays what it is
            assert (found == np.arange(1, 1001)).all()
        assert transport.totals()["received"]["shared memory"].transfers == before + 4


def test_a_variable_keeps_what_was_fed(server: runtime.Server, monkeypatch: pytest.MonkeyPatch) -> None:
    with session_on(server.target, "shared memory", monkeypatch) as session:
        graph = session.graph
        x = graph.placeholder("float32", [1000], name="x")
        kept = graph.variable(np.zeros(1000, np.float32), name="kept")
        session.run(kept.initializer)
        session.run(kept.assign(x), {x: np.ones(1000)})
        for _ in range(5):  # the segment is used again
            session.run(graph.identity(x), {x: np.full(1000, 7.0)})
        assert (session.run(kept) == 1).all()


def test_an_array_in_shared_memory_is_fed_without_a_copy(server: runtime.Server, monkeypatch: pytest.MonkeyPatch
                                                         ) -> None:
    with session_on(server.target, "shared memory", monkeypatch) as session:
        x = session.graph.placeholder("float32", [None], name="x")
        array = transport.empty(1 << 18)
        array[:] = 3
        before = transport.totals()["sent"].get("shared memory", transport.Totals())
        assert session.run(session.graph.reduce_sum(x), {x: array}) == 3 << 18
        after = transport.totals()["sent"]["shared memory"]
        assert (after.transfers - before.transfers, after.copies - before.copies) == (1, 0)


@pytest.mark.parametrize("whose", ["the server's", "the client's"])
def test_memory_out_of_reach_makes_room_for_the_stream(server: runtime.Server, monkeypatch: pytest.MonkeyPatch,
                                                       whose: str) -> None:
    tried = []

    def claimed(*arguments: Any) -> Any:
        tried.append(arguments)
        raise Unavailable("another network namespace")

    value = np.arange(1000.0)
    with session_on(server.target, "shared memory", monkeypatch) as session:
        x = session.graph.placeholder("float64", [None], name="x")
        monkeypatch.setattr(elsewhere, "claimed", claimed)
        for _ in range(3):
            if whose == "the server's":
                assert session.run(session.graph.reduce_sum(x), {x: value}) == value.sum()
            else:
                assert (session.run(session.graph.constant(value)) == value).all()
        assert len(tried) == 1  # and not tried again
        assert not roads_of(session)._can_share
    until(lambda: lender().num_leases == 0)


def test_a_server_that_has_lost_its_answer_is_unavailable(server: runtime.Server, monkeypatch: pytest.MonkeyPatch
                                                          ) -> None:
    def claimed(place: Any, tensor: Any, *rest: Any) -> Any:
        lender().revoke(tensor.lease.lease)
        raise NotFound("the lease has ended with its server")

    with session_on(server.target, "shared memory", monkeypatch) as session:
        monkeypatch.setattr(elsewhere, "claimed", claimed)
        with pytest.raises(Unavailable, match="has no longer the large fetches of the step, perhaps .* restarted: "):
            session.run(session.graph.constant(np.arange(1000.0)))


def test_what_tensorflow_takes_is_not_touched(peer_server: str) -> None:
    value = np.arange(3 << 18, dtype=np.float32)
    with runtime.Session(peer_server) as session:
        x = session.graph.placeholder("float32", [None], name="x")
        assert (session.run(x + x, {x: value}) == value * 2).all()
        assert session._transport._roads is None  # type: ignore[attr-defined]


def has_memory(nbytes: int) -> bool:
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") > nbytes + 2 * GIB


def test_more_than_two_gibibytes_are_fed(server: runtime.Server) -> None:
    size = 2 * GIB + (100 << 20)
    if not has_memory(size):
        pytest.skip("needs 4 GiB of free memory")
    with runtime.Session(server.target) as session:
        x = session.graph.placeholder("uint8", [None], name="x")
        value = transport.empty(size, np.uint8)
        value[-1] = 7
        assert session.run(x[-1], {x: value}) == 7
        del value
        transport.segments.pool().trim()


@pytest.mark.skipif("TENSOR_RUNTIME_LARGE" not in os.environ, reason="moves 4 GiB: set TENSOR_RUNTIME_LARGE=1")
@pytest.mark.timeout(600)
@pytest.mark.parametrize("road", ROADS)
def test_more_than_two_gibibytes_go_there_and_come_back(server: runtime.Server, road: str) -> None:
    size = 2 * GIB + (100 << 20)
    with runtime.Session(server.target) as session:
        x = session.graph.placeholder("uint8", [None], name="x")
        value = np.full(size, 9, np.uint8)
        roads_of(session)._can_share = road == "shared memory"
        before = transport.totals()["received"].get(road, transport.Totals()).bytes
        found = session.run(session.graph.identity(x), {x: value})
        assert found.shape == (size,) and found[0] == found[-1] == 9
        assert transport.totals()["received"][road].bytes - before == 2 * size
        del found
        transport.segments.pool().trim()


def test_a_fetch_that_no_message_holds_is_named_with_the_way_out() -> None:
    plan = ResponsePlan(["small:0", "huge:0"])
    with pytest.raises(ResourceExhausted) as caught:
        plan.encode([np.zeros(3), np.zeros(2_362_232_000, np.uint8)], None, True)
    assert ('protobuf allows 2147483647; the largest is tensor 1 "huge:0" with 2362232000 bytes (DT_UINT8 of '
            "[2362232000]): send fewer or smaller tensors at a time, such as slices of it. Between programs of this "
            "project") in caught.value.message


def test_feeds_that_no_message_holds_are_named_with_the_way_out() -> None:
    from runtime.client.remote import _check_size

    with pytest.raises(InvalidArgument, match="the largest is 'x:0' with 2362232000: this server takes tensors in "
                                              "messages alone: feed less at once, .* or use a server of this project"):
        _check_size(["x:0"], [np.zeros(2_362_232_000, np.uint8)], False)


def test_a_client_that_offers_nothing_gets_everything_in_its_message(server: runtime.Server,
                                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    with session_on(server.target, "shared memory", monkeypatch) as session:
        constant = session.graph.constant(np.arange(1000.0), name="c")
        session.run(constant)
        handle = session._transport._handle  # type: ignore[attr-defined]
        with grpc.insecure_channel(server.address) as channel:
            answer = channel.unary_unary(STEPS)(encode_run_step_request(handle, (), (), ["c:0"]), timeout=20)
        assert scan_last(answer, 1000) is None
        assert (scan_run_step_response(answer)[1][0] == np.arange(1000)).all()


def ask(server: runtime.Server, session: runtime.Session, message: wire.runtime_v1.TensorsElsewhere,
        value: np.ndarray | None = None) -> tuple[int, str, Any]:
    """Run ``x:0`` with a message of one's own about its feed."""
    handle = session._transport._handle  # type: ignore[attr-defined]
    request = encode_run_step_request(handle, ["x:0"], [np.empty(0) if value is None else value], ["y:0"])
    with grpc.insecure_channel(server.address) as channel:
        answer = channel.unary_unary(STEPS)(request + elsewhere.as_field(message), timeout=20)
    _, _, code, text, _ = scan_run_step_response(answer)
    return code, text, elsewhere.find(answer)


def test_requests_that_say_what_cannot_be_are_refused(server: runtime.Server, monkeypatch: pytest.MonkeyPatch) -> None:
    tensor, lease = wire.runtime_v1.ElsewhereTensor, wire.runtime_v1.Lease
    with session_on(server.target, "shared memory", monkeypatch) as session:
        x = session.graph.placeholder("float64", [None], name="x")
        session.graph.identity(x, name="y")
        session.run(x, {x: np.arange(9.0)})
        session.run("y:0", {x: np.arange(9.0)})
        message = wire.runtime_v1.TensorsElsewhere

        def told(*arguments: Any, **fields: Any) -> tuple[int, str]:
            code, text, _ = ask(server, session, message(**fields), *arguments)
            return code, text

        assert told(tensor=[tensor(index=1)]) == (
            3, "ElsewhereTensor.index is 1; the request has 1 feeds, and there must be an empty one")
        assert told(np.arange(3.0), tensor=[tensor(index=0)])[0] == 3
        assert told(tensor=[tensor(index=0)], key="feeds/unknown")[1].startswith(
            "the tensors 'feeds/unknown' that were sent ahead of the step are not here: they are kept for 30 s")
        wrong = tensor(index=0, shape=[5], lease=lease(lease=1, nbytes=41))
        assert told(tensor=[wrong])[1] == (
            "ElsewhereTensor.shape of 'x:0' is [5] of float64, and its content has 41 bytes")
        # A lease that is not there is for the client to send otherwise.
        gone = tensor(index=0, shape=[5], lease=lease(lease=1, nbytes=40))
        place = Place(lender().address and "x", 0, 0).message()
        assert ask(server, session, message(tensor=[gone], place=place))[2].is_refused
        with grpc.insecure_channel(server.address) as channel:
            request = encode_run_step_request(session._transport._handle,  # type: ignore[attr-defined]
                                              ["x:0"], [np.empty(0)], ["y:0"])
            with pytest.raises(grpc.RpcError, match="this is no runtime.v1.TensorsElsewhere message"):
                channel.unary_unary(STEPS)(request.replace(b"\x38\x01", b"") + b"\xc2\x3e\x02\xff\xff", timeout=20)


def test_a_parcel_of_another_type_is_refused_and_used_once(server: runtime.Server, monkeypatch: pytest.MonkeyPatch
                                                           ) -> None:
    with session_on(server.target, "stream", monkeypatch) as session:
        x = session.graph.placeholder("float64", [None], name="x")
        session.graph.identity(x, name="y")
        session.run("y:0", {x: np.arange(9.0)})
        roads = roads_of(session)
        wanted = [wire.runtime_v1.ElsewhereTensor(index=0, shape=[9])]
        roads._send("feeds/1", {"0": np.arange(9, dtype=np.float32)}, None)
        message = wire.runtime_v1.TensorsElsewhere(tensor=wanted, key="feeds/1")
        assert ask(server, session, message)[1] == (
            "'x:0' is float64 of [9] in the message, and float32 of [9] in the parcel")
        assert "are not here" in ask(server, session, message)[1]
        roads._send("feeds/2", {"1": np.arange(9.0)}, None)
        message.key = "feeds/2"
        assert "'x:0' is to be in the parcel of the step, and is not" in ask(server, session, message)[1]
        with pytest.raises(NotFound, match="there is nothing under 'kept/5': answers are kept for 30 s, and given out"):
            roads._receive("kept/5", 10, None)


def test_fed_tensors_count_as_bytes_in_flight(monkeypatch: pytest.MonkeyPatch, held: Callable[[], StepTensors]) -> None:
    with (
        runtime.Server(services=("graph",), grace_s=0, max_bytes_in_flight=1 << 20) as server,
        session_on(server.target, "stream", monkeypatch) as session,
    ):
        x = session.graph.placeholder("float64", [None], name="x")
        y = session.graph.placeholder("float64", [None], name="y")
        with pytest.raises(ResourceExhausted, match=r"feeds sent ahead of a step \(the largest has 1600000 bytes\) of "
                                                    r"1600800 bytes is larger than max_bytes_in_flight"):
            session.run(x[0] + y[0], {x: np.zeros(200_000), y: np.zeros(100)})
        assert session.run(x[0], {x: np.zeros(100_000)}) == 0


def test_what_nobody_comes_for_is_let_go(monkeypatch: pytest.MonkeyPatch, held: Callable[[], StepTensors]) -> None:
    monkeypatch.setattr(step_tensors, "KEPT_S", 0.2)
    with (
        runtime.Server(services=("graph",), grace_s=0) as server,
        session_on(server.target, "stream", monkeypatch) as session,
    ):
        roads_of(session)._send("feeds/1", {"0": np.arange(1000.0)}, None)
        until(lambda: not held()._fed)
        handle = session._transport._handle  # type: ignore[attr-defined]
        constant = session.graph.constant(np.arange(1000.0), name="c")
        session.run(constant)
        with grpc.insecure_channel(server.address) as channel:
            answer = channel.unary_unary(STEPS)(
                encode_run_step_request(handle, (), (), ["c:0"]) + elsewhere.offer(False), timeout=20)
        told = elsewhere.find(answer)
        assert told is not None and told.key
        until(lambda: not held()._kept)


FEEDER = """
import sys, time
import numpy as np
import runtime
from runtime.transport import elsewhere
target, road, size = sys.argv[1:]
with runtime.Session(target) as session:
    x = session.graph.placeholder("float32", [None], name="x")
    session.run(session.graph.constant(1.0))
    session._transport._roads._can_share = road == "shared memory"
    value = np.ones(int(size) // 4, np.float32)
    print("ready", flush=True)
    while True:
        session.run(x + x, {x: value})
"""


def descriptors_now() -> int:
    """Return how many descriptors there are when everything idle is given back."""
    transport.segments.pool().trim()
    for found in list(borrower._borrowers.values()):
        found.trim(0.0)
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("road", ROADS)
def test_killing_clients_in_a_loop_leaves_nothing(monkeypatch: pytest.MonkeyPatch, held: Callable[[], StepTensors],
                                                  road: str) -> None:
    monkeypatch.setattr(step_tensors, "KEPT_S", 0.5)
    rng = np.random.default_rng(5)
    with runtime.Server(services=("graph",), grace_s=0) as server:
        before = 0
        for turn in range(3):
            with subprocess.Popen([sys.executable, "-c", FEEDER, server.target, road, str(40 << 20)],
                                  stdout=subprocess.PIPE, text=True,
                                  env={**os.environ, "PYTHONPATH": str(peers.ROOT)}) as client:
                assert client.stdout is not None and client.stdout.readline() == "ready\n"
                time.sleep(rng.uniform(0.05, 0.5))
                client.kill()
            until(lambda: held().num_held == 0 and held()._account.used == 0)
            # What was lent to it and not claimed ends by itself, after half a minute.
            for number in list(lender()._waiting):
                lender().revoke(number)
            until(lambda: lender().num_leases == 0)
            if turn == 0:  # threads and sockets that stay are there from now on
                time.sleep(0.5)
                before = descriptors_now()
        until(lambda: descriptors_now() <= before)


@pytest.mark.parametrize("road", ROADS)
def test_a_server_that_is_killed_leaves_the_client_with_an_error_and_nothing_else(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, road: str) -> None:
    for turn in range(2):
        with start_server(tmp_path) as server, runtime.Session(server.target) as session:
            x = session.graph.placeholder("float32", [None], name="x")
            roads_of(session)._can_share = road == "shared memory"
            value = np.ones(10 << 20, np.float32)
            assert (session.run(x + x, {x: value}) == 2).all()
            end = time.monotonic() + 0.2 * turn
            monkeypatch.setattr(runtime.client.tensor_roads, "_RESUME_S", 1.0)
            with pytest.raises(Unavailable):
                while True:
                    session.run(x + x, {x: value})
                    if time.monotonic() > end:
                        os.kill(server.pid, signal.SIGKILL)
        until(lambda: lender().num_leases == 0)


def test_a_limit_of_time_holds_on_the_stream(tmp_path: Path) -> None:
    with start_server(tmp_path) as server, runtime.Session(server.target) as session:
        x = session.graph.placeholder("float32", [None], name="x")
        first = x[0]
        roads_of(session)._can_share = False
        value = np.ones(10 << 20, np.float32)
        os.kill(server.pid, signal.SIGSTOP)
        try:
            with pytest.raises(DeadlineExceeded, match="the feeds of the step were not carried in time by grpc://.*: "):
                session.run(first, {x: value}, {"timeout_in_ms": 300})
        finally:
            os.kill(server.pid, signal.SIGCONT)


def test_memory_of_feeds_is_there_for_the_next_ones_at_once(server: runtime.Server, monkeypatch: pytest.MonkeyPatch
                                                            ) -> None:
    """Whether or not somebody looks for cycles."""
    with session_on(server.target, "stream", monkeypatch) as session:
        x = session.graph.placeholder("float64", [None], name="x")
        first, value = x[0], np.zeros(200_000)
        gc.collect()
        lent = arrays._pool().num_lent
        gc.disable()
        try:
            for _ in range(5):
                session.run(first, {x: value})
            until(lambda: arrays._pool().num_lent == lent)
        finally:
            gc.enable()


def test_a_session_within_an_event_loop_takes_the_stream_too(server: runtime.Server, monkeypatch: pytest.MonkeyPatch
                                                             ) -> None:
    with session_on(server.target, "stream", monkeypatch) as session:
        x = session.graph.placeholder("float64", [None], name="x")

        async def work() -> Any:
            return session.run(x + x, {x: np.arange(100.0)})

        assert (asyncio.run(work()) == 2 * np.arange(100)).all()


def test_a_feed_reaches_the_task_where_it_is_used_by_a_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two tasks of one process share no segments: what no message holds goes from one to the other in chunks."""
    cluster = {"worker": [f"127.0.0.1:{free_port()}" for _ in range(2)]}
    monkeypatch.setattr(handover, "MESSAGE_BYTES", 1000)
    value = np.arange(30_000.0)
    with (
        runtime.Server(cluster, "worker", 0) as server, runtime.Server(cluster, "worker", 1),
        session_on(f"grpc://{server.address}", "stream", monkeypatch) as session,
    ):
        graph = session.graph
        x = graph.placeholder("float64", [None], name="x")
        with graph.device("/job:worker/task:1"):
            there = x + x
        before = transport.totals()["received"]["stream"]
        assert (session.run(there, {x: value}) == 2 * value).all()
        after = transport.totals()["received"]["stream"]
        # To the master, to the task, back to the master, and to the client.
        assert after.transfers - before.transfers == 4
        assert after.bytes - before.bytes == 4 * value.nbytes


def test_a_tensor_that_another_kind_of_task_cannot_take_is_named(tmp_path: Path) -> None:
    from runtime.dtypes import DataType
    from runtime.worker.exchange import Sent
    from runtime.worker.service import WorkerService

    class Worker:
        def sweep(self) -> None:
            pass

        def receive(self, step_id: int, key: str, request_id: int, done: Any) -> Callable[[], None]:
            done(Sent(np.zeros(2_362_232_000, np.uint8), DataType.UINT8), False, None)
            return lambda: None

    service = WorkerService(None, Worker, None, StepTensors(1 << 30))  # type: ignore[arg-type]
    request = wire.RecvTensorRequest(step_id=1, rendezvous_key="a;1;b;edge_5_x;0:0").SerializeToString()
    with pytest.raises(ResourceExhausted, match=r"RecvTensor of a;1;b;edge_5_x;0:0: .* \(DT_UINT8 of \[2362232000\]\): "
                                                "send fewer or smaller tensors at a time"):
        asyncio.run(service.recv_tensor(request, None))
