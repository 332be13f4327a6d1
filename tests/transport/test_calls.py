"""Parcels between programs: over every road, through a server or straight, and what happens when something breaks."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import runtime
from runtime import transport
from runtime.errors import (
    DeadlineExceeded,
    Error,
    FailedPrecondition,
    InvalidArgument,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
)
from runtime.transport import aio
from tests import peers
from tests.processes import free_port
from tests.transport.samples import same

TIMEOUT_S = 30.0


@pytest.fixture(scope="module")
def server() -> Iterator[runtime.Server]:
    with runtime.Server(services=("stream",), grace_s=0) as made:
        yield made


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as made:
        yield made


def samples() -> dict[str, object]:
    rng = np.random.default_rng(3)
    return {
        "float": rng.normal(size=(300, 1000)).astype(np.float32),
        "fortran": np.asfortranarray(rng.integers(0, 9, (70, 80))),
        "steps": rng.normal(size=(100, 100))[::3, 1::2],
        "empty": np.empty((0, 5), np.int8),
        "scalar": np.float64(2.5),
        "strings": np.array([b"a", b"bc"], object),
        "list": [1, 2, 3],
    }


def check(found: dict[str, np.ndarray], expected: dict[str, object]) -> None:
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert same(found[name], np.asarray(value)) or found[name].tolist() == np.asarray(value).tolist(), name


@pytest.mark.parametrize("options", [dict(share=False), dict(share=True), dict(share=False, compress="zlib")])
def test_a_dict_of_arrays_arrives_through_a_server(server: runtime.Server, pool: ThreadPoolExecutor,
                                                   options: dict[str, object]) -> None:
    key = str(options)
    got = pool.submit(transport.receive, server.target, key, timeout_s=TIMEOUT_S, share=bool(options["share"]))
    transport.send(samples(), server.target, key, timeout_s=TIMEOUT_S, **options)
    check(got.result(), samples())


def test_a_dict_of_arrays_arrives_at_a_program_that_listens(pool: ThreadPoolExecutor) -> None:
    port = free_port()
    got = pool.submit(transport.receive, listen=f"127.0.0.1:{port}", timeout_s=TIMEOUT_S, share=False)
    transport.send(samples(), f"grpc://127.0.0.1:{port}", timeout_s=TIMEOUT_S)
    check(got.result(), samples())


def test_the_sender_may_come_first_and_arrays_alone_stay_alone(server: runtime.Server,
                                                               pool: ThreadPoolExecutor) -> None:
    sent = pool.submit(transport.send, np.arange(6).reshape(2, 3), server.target, "alone", timeout_s=TIMEOUT_S)
    got = transport.receive(server.target, "alone", timeout_s=TIMEOUT_S, share=False)
    assert got.tolist() == [[0, 1, 2], [3, 4, 5]]
    sent.result()


def test_within_a_process_the_array_itself_arrives(server: runtime.Server, pool: ThreadPoolExecutor) -> None:
    array = np.arange(10)
    sent = pool.submit(transport.send, array, server.target, "same", timeout_s=TIMEOUT_S)
    assert transport.receive(server.target, "same", timeout_s=TIMEOUT_S) is array
    sent.result()


OTHER_PROGRAM = """
import sys
import numpy as np
from runtime import transport
target, what = sys.argv[1:]
array = transport.receive(target, "there", timeout_s=30, share=what == "share")
print(array.flags.writeable, flush=True)
if array.flags.writeable:
    array += 1
transport.send({"back": array, **{str(k): v.bytes for k, v in transport.totals()["received"].items()}}, target, "back",
               timeout_s=30, share=what == "share")
"""


@pytest.mark.parametrize(("what", "road"), [("share", "shared memory"), ("stream", "stream")])
@pytest.mark.parametrize("place", ["own", "shared"])
def test_another_program_takes_the_road_that_both_can_use(server: runtime.Server, pool: ThreadPoolExecutor, what: str,
                                                          road: str, place: str) -> None:
    array = transport.empty((1000, 500), np.float32) if place == "shared" else np.empty((1000, 500), np.float32)
    array[...] = np.arange(500)
    before = transport.totals()["sent"].get(road, transport.Totals())
    with subprocess.Popen([sys.executable, "-c", OTHER_PROGRAM, server.target, what], stdout=subprocess.PIPE, text=True,
                          env={**os.environ, "PYTHONPATH": str(peers.ROOT)}) as other:
        transport.send(array, server.target, "there", timeout_s=TIMEOUT_S, share=what == "share")
        got = transport.receive(server.target, "back", timeout_s=TIMEOUT_S, share=what == "share")
        after = transport.totals()["sent"][road]
        assert other.stdout is not None
        # What lies in shared memory already is not copied, and the other must not write into it.
        is_handed_over = place == "shared" and what == "share"
        assert other.stdout.readline() == f"{not is_handed_over}\n"
        assert got[road] == array.nbytes
        assert (got["back"] == np.arange(500) + (not is_handed_over)).all()
        assert after.transfers == before.transfers + 1 and after.bytes == before.bytes + array.nbytes
        assert after.copies - before.copies == (what == "share" and not is_handed_over)
        assert other.wait(20) == 0


class Cutter:
    """A way to a server that breaks after so many bytes, a number of times."""

    def __init__(self, address: str, cuts: list[int]) -> None:
        host, port = address.split(":")
        self._to = (host, int(port))
        self.cuts = cuts
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.target = f"grpc://127.0.0.1:{self._listener.getsockname()[1]}"
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(self._to)
            except OSError:  # not there yet
                near.close()
                continue
            self._open += [near, far]
            left = [self.cuts.pop(0) if self.cuts else 1 << 60]
            for source, to in ((near, far), (far, near)):
                threading.Thread(target=self._carry, args=(source, to, left), daemon=True).start()

    def _carry(self, source: socket.socket, to: socket.socket, left: list[int]) -> None:
        with contextlib.suppress(OSError):
            while left[0] > 0 and (data := source.recv(1 << 16)):
                left[0] -= len(data)
                to.sendall(data)
        for end in (source, to):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.close()
        for sock in self._open:
            sock.close()


@pytest.mark.parametrize("side", ["sender", "receiver", "both"])
def test_a_parcel_survives_cuts(server: runtime.Server, pool: ThreadPoolExecutor, side: str) -> None:
    array = np.random.default_rng(1).integers(0, 255, 5_000_000, np.uint8)
    cuts = [100, 30_000, 700_000, 900_000, 1_500_000]
    ways = [Cutter(server.address, list(cuts) if side in (name, "both") else []) for name in ("sender", "receiver")]
    try:
        got = pool.submit(transport.receive, ways[1].target, "cut", timeout_s=TIMEOUT_S, share=False)
        transport.send(array, ways[0].target, "cut", timeout_s=TIMEOUT_S, share=False)
        assert (got.result() == array).all()
        assert not ways[0].cuts and not ways[1].cuts
    finally:
        for way in ways:
            way.close()


def test_a_parcel_survives_cuts_on_its_way_to_a_program_that_listens(pool: ThreadPoolExecutor) -> None:
    array = np.random.default_rng(1).integers(0, 255, 3_000_000, np.uint8)
    port = free_port()
    got = pool.submit(transport.receive, listen=f"127.0.0.1:{port}", timeout_s=TIMEOUT_S, share=False)
    way = Cutter(f"127.0.0.1:{port}", [300_000, 700_000, 1_200_000])
    try:
        transport.send(array, way.target, timeout_s=TIMEOUT_S, share=False)
    finally:
        way.close()
    assert (got.result() == array).all() and not way.cuts


def test_deadlines_say_how_far_it_came(server: runtime.Server) -> None:
    with pytest.raises(DeadlineExceeded, match="the parcel 'nobody' was not sent within 0.3 s: no receiver"):
        transport.send(np.zeros(3), server.target, "nobody", timeout_s=0.3)
    with pytest.raises(DeadlineExceeded, match="'nobody at all' was not received within 0.3 s: nothing of it has come"):
        transport.receive(server.target, "nobody at all", timeout_s=0.3)
    with pytest.raises(DeadlineExceeded, match="'default' was not received within 0.3 s"):
        transport.receive(listen="127.0.0.1:0", timeout_s=0.3)


def test_a_server_that_is_not_there_is_tried_again_for_a_while() -> None:
    began = time.monotonic()
    with pytest.raises(Unavailable):
        transport.send(np.zeros(3), f"grpc://127.0.0.1:{free_port()}", resume_s=0.5)
    assert 0.3 < time.monotonic() - began < 10


def test_what_a_receiver_does_not_take_fails_at_both_ends(pool: ThreadPoolExecutor) -> None:
    port = free_port()
    got = pool.submit(transport.receive, listen=f"127.0.0.1:{port}", timeout_s=TIMEOUT_S, limit_bytes=100)
    with pytest.raises(ResourceExhausted, match="the parcel 'default' holds 8000 bytes, and 100 are allowed; the "
                                                "largest "
                                                "item is 'large' with 8000"):
        transport.send({"large": np.zeros(1000)}, f"grpc://127.0.0.1:{port}", timeout_s=TIMEOUT_S)
    with pytest.raises(ResourceExhausted, match="'large' with 8000"):
        got.result()


def test_a_cancelled_sender_is_told_of_at_the_other_end(server: runtime.Server) -> None:
    async def main() -> None:
        receiving = asyncio.create_task(aio.receive(server.target, "given up", timeout_s=TIMEOUT_S, share=False,
                                                    resume_s=0.5))
        begun = asyncio.Event()
        sending = asyncio.create_task(aio.send(np.zeros(200 << 20, np.uint8), server.target, "given up", share=False,
                                               progress=lambda *_: begun.set()))
        await asyncio.wait_for(begun.wait(), TIMEOUT_S)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        with pytest.raises((Unavailable, DeadlineExceeded)):
            await receiving

    asyncio.run(main())


def test_both_ends_run_in_one_loop(server: runtime.Server) -> None:
    told: list[tuple[int, int]] = []

    async def main() -> np.ndarray:
        found, _ = await asyncio.gather(
            aio.receive(server.target, "loop", timeout_s=TIMEOUT_S, share=False,
                        progress=lambda *now: told.append(now)),
            aio.send({"x": np.arange(1_000_000)}, server.target, "loop", timeout_s=TIMEOUT_S))
        return found["x"]

    assert (asyncio.run(main()) == np.arange(1_000_000)).all()
    assert told[-1] == (8_000_000, 8_000_000) and len(told) > 5


def test_the_blocking_form_says_so_within_a_loop(server: runtime.Server) -> None:
    async def main() -> None:
        with pytest.raises(FailedPrecondition, match="await runtime.transport.aio.send"):
            transport.send(np.zeros(1), server.target)

    asyncio.run(main())


@pytest.mark.parametrize(("arguments", "text"), [
    (dict(), "receive\\(\\) takes either"),
    (dict(where="grpc://a:1", listen="a:1"), "receive\\(\\) takes either"),
    (dict(where="grpc://a:1", insecure=True), "insecure: settings of a server go with listen"),
    (dict(where="nonsense"), "target 'nonsense' is not understood"),
    (dict(listen="127.0.0.1:0", nonsense=1), "nonsense"),
])
def test_arguments_are_checked(arguments: dict[str, object], text: str) -> None:
    with pytest.raises(InvalidArgument, match=text):
        transport.receive(**arguments)


def test_tokens_are_asked_for(tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    token_file = tmp_path / "tokens"
    token_file.write_text("secret-of-this-test-0123456789\n")
    token_file.chmod(0o600)
    with runtime.Server(services=("stream",), token_file=token_file, grace_s=0) as server:
        with pytest.raises(Unauthenticated):
            transport.send(np.zeros(3), server.target, timeout_s=TIMEOUT_S)
        token = "secret-of-this-test-0123456789"
        got = pool.submit(transport.receive, server.target, timeout_s=TIMEOUT_S, token=token, share=False)
        transport.send(np.zeros(3), server.target, timeout_s=TIMEOUT_S, token=token)
        assert got.result().tolist() == [0, 0, 0]


def test_a_server_that_stops_lets_those_go_who_wait() -> None:
    with ThreadPoolExecutor(2) as pool:
        with runtime.Server(services=("stream",), grace_s=5) as server:
            waiting = pool.submit(transport.receive, server.target, "never", timeout_s=TIMEOUT_S, resume_s=0.3)
            time.sleep(0.5)
            began = time.monotonic()
        assert time.monotonic() - began < 4
        with pytest.raises(Error):
            waiting.result()


def test_parcels_of_a_key_arrive_in_their_order(server: runtime.Server, pool: ThreadPoolExecutor) -> None:
    def send_all() -> None:
        for number in range(5):
            transport.send(np.int64(number), server.target, "order", timeout_s=TIMEOUT_S)

    sent = pool.submit(send_all)
    found = [int(transport.receive(server.target, "order", timeout_s=TIMEOUT_S, share=False)) for _ in range(5)]
    sent.result()
    assert found == list(range(5))
