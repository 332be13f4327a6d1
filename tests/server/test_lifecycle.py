"""``runtime.Server``: from its start to the last trace of it."""

from __future__ import annotations

import asyncio
import gc
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import aio

import runtime
from runtime import config, errors
from runtime.edge import loops, plane
from tests import leaks
from tests.processes import free_port
from tests.server.conftest import connect
from tests.server.fake_planes import RUN_STEP, STREAM_LOGS

HEALTH, WATCH = "/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"
Start = Callable[..., runtime.Server]


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def test_server_answers_until_the_end_of_its_block() -> None:
    with runtime.Server() as server:
        assert server.target == f"grpc://{server.address}"
        assert int(server.address.rpartition(":")[2]) > 0
        with connect(server.address) as client:
            assert client.unary(HEALTH) == b"\x08\x01"
        assert "serving" in repr(server)
        assert server.join(0) is False
    assert server.join(0) is True
    assert "stopped" in repr(server)


def test_stop_is_idempotent_and_thread_safe() -> None:
    server = runtime.Server()
    threads = [threading.Thread(target=server.stop) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    server.stop()
    assert server.join(0)


def test_port_is_free_at_once() -> None:
    with runtime.Server() as server:
        address = server.address
    host, _, port = address.rpartition(":")
    with socket.socket() as probe:
        probe.bind((host, int(port)))
    with runtime.Server(listen=address) as again:
        assert again.address == address


def test_busy_port_is_an_error_that_names_it() -> None:
    with runtime.Server() as server:
        with pytest.raises(errors.Unavailable, match=f"port {server.address.rpartition(':')[2]} is in use"):
            runtime.Server(listen=server.address)
        with connect(server.address) as client:
            assert client.unary(HEALTH) == b"\x08\x01"


@pytest.mark.parametrize("listen, part", [("name.invalid:0", "does not resolve"), ("192.0.2.1:0", "cannot listen")])
def test_address_that_cannot_be_had_says_why(listen: str, part: str) -> None:
    with pytest.raises(errors.Unavailable, match=part):
        runtime.Server(listen=listen, insecure=True)


def test_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with runtime.Server(listen=f"unix:{path}") as server:
        assert server.target == server.address == f"unix:{path}"
        assert path.stat().st_mode & 0o777 == 0o600
        with connect(server.address) as client:
            assert client.unary(HEALTH) == b"\x08\x01"
        with pytest.raises(errors.Unavailable, match="another server answers"):
            runtime.Server(listen=f"unix:{path}")
    assert not path.exists()


def test_unix_socket_of_a_dead_server_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with runtime.Server(listen=f"unix:{path}") as server, connect(server.address) as client:
        assert client.unary(HEALTH) == b"\x08\x01"


def test_file_in_the_place_of_a_unix_socket_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("precious")
    with pytest.raises(errors.Unavailable, match="no socket"):
        runtime.Server(listen=f"unix:{path}")
    assert path.read_text() == "precious"


def test_unknown_option_is_refused() -> None:
    with pytest.raises(errors.InvalidArgument, match="did you mean 'grace_s'"):
        runtime.Server(grace=3)


def test_environment_does_not_reach_an_embedded_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENSOR_RUNTIME_GRACE_S", "1")
    with runtime.Server() as server:
        assert server.settings.grace_s == 30
    with runtime.Server(settings=config.load({"listen": "127.0.0.1:0"}).settings) as server:
        assert server.settings.grace_s == 1


def test_cluster_address_is_the_default() -> None:
    address = f"127.0.0.1:{free_port()}"
    with runtime.Server({"worker": [address]}, "worker", 0) as server:
        assert server.address == address


def test_open_call_ends_within_the_grace_and_new_ones_are_refused(serving: Start, fake: list[str]) -> None:
    server = serving()
    with connect(server.address) as client, connect(server.address) as late:
        call = client.future(RUN_STEP, b"sleep 0.7")
        until(lambda: "sleeping" in fake)
        stopping = threading.Thread(target=server.stop, args=(20,))
        stopping.start()
        until(lambda: "graph drains" in fake)
        until(lambda: late.failure(HEALTH, timeout=2).code() is grpc.StatusCode.UNAVAILABLE)
        assert not call.done()
        assert call.result(10) == b"slept"
        stopping.join(10)
        assert not stopping.is_alive()
    assert fake.index("graph drains") < fake.index("graph stops")


def test_call_beyond_the_grace_is_cancelled_before_its_plane_stops(serving: Start, fake: list[str]) -> None:
    server = serving()
    with connect(server.address) as client:
        call = client.future(RUN_STEP, b"forever")
        until(lambda: "waiting" in fake)
        start = time.monotonic()
        server.stop(0.3)
        assert 0.25 < time.monotonic() - start < 5
        assert call.exception(5).code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
    assert fake.index("cancelled") < fake.index("graph stops")


def test_later_stop_shortens_the_grace(serving: Start, fake: list[str]) -> None:
    server = serving()
    with connect(server.address) as client:
        call = client.future(RUN_STEP, b"forever")
        until(lambda: "waiting" in fake)
        patient = threading.Thread(target=server.stop, args=(60,))
        patient.start()
        until(lambda: "graph drains" in fake)
        server.stop(0)
        patient.join(5)
        assert not patient.is_alive()
        assert call.exception(5) is not None


def test_drain_ends_watches_reflection_and_what_planes_let_go(serving: Start, fake: list[str]) -> None:
    server = serving()
    with connect(server.address) as client:
        watch = client.stream(WATCH)
        assert next(watch) == b"\x08\x01"
        hold = threading.Event()

        def requests() -> Any:
            yield b"\x3a\x00"
            hold.wait(20)

        reflection = client.channel.stream_stream("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")(
            requests()
        )
        assert next(reflection)
        waiting = client.future(RUN_STEP, b"until-drain")
        until(lambda: "waits for the drain" in fake)
        start = time.monotonic()
        server.stop(20)
        assert time.monotonic() - start < 5
        assert list(watch) == [b"\x08\x02"]
        assert waiting.result(5) == b"drained"
        hold.set()


def test_planes_start_with_the_real_address_and_stop_in_reverse(fake: list[str]) -> None:
    with runtime.Server(services=("graph", "task")) as server:
        address = server.address
    assert [event for event in fake if "drains" not in event] == [
        f"graph starts on {address}",
        f"task starts on {address}",
        "task stops",
        "graph stops",
    ]


class Failing:
    """A plane that fails to start, or to stop."""

    def __init__(self, where: str) -> None:
        self.where = where

    def services(self) -> dict[str, Any]:
        return {"no.such.Service": {}} if self.where == "services" else {}

    async def start(self) -> None:
        if self.where == "start":
            raise errors.FailedPrecondition("the disk is full")

    async def stop(self, grace: float) -> None:
        if self.where == "stop":
            raise RuntimeError("cannot stop")


def create_failing_start(_settings: Any) -> Failing:
    return Failing("start")


def create_failing_stop(_settings: Any) -> Failing:
    return Failing("stop")


def create_failing_services(_settings: Any) -> Failing:
    return Failing("services")


@pytest.mark.parametrize("where, part", [("start", "the disk is full"), ("services", "no.such.Service")])
def test_plane_that_fails_leaves_nothing_running(
    fake: list[str], monkeypatch: pytest.MonkeyPatch, where: str, part: str
) -> None:
    warm_up()
    fake.clear()
    monkeypatch.setitem(plane.PLANES, "task", f"{__name__}:create_failing_{where}")
    with leaks.leak_check(), pytest.raises(errors.Error, match=part):
        runtime.Server()
    assert "graph stops" in fake


def test_plane_that_fails_to_stop_does_not_keep_the_others(fake: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(plane.PLANES, "task", f"{__name__}:create_failing_stop")
    with runtime.Server() as server:
        pass
    assert server.join(0)
    assert "graph stops" in fake


def test_broken_plane_module_is_an_error_and_not_an_absence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "broken_plane_module.py").write_text("import nothing_of_that_name")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(plane.PLANES, "task", "broken_plane_module:create")
    with pytest.raises(ModuleNotFoundError, match="nothing_of_that_name"):
        runtime.Server()


def warm_up() -> None:
    """Let gRPC do what it does once for the process."""
    with runtime.Server() as server, connect(server.address) as client:
        client.unary(HEALTH)
    gc.collect()


@pytest.mark.parametrize("loop", ["auto", "asyncio"])
def test_start_and_stop_leave_nothing_behind(loop: str) -> None:
    warm_up()
    for _ in range(20):
        runtime.Server(loop=loop).stop()
    native = leaks.native_threads()
    grown = []
    with leaks.leak_check():
        for _ in range(3):
            before = resident_bytes()
            for _ in range(40):
                with runtime.Server(loop=loop) as server:
                    assert server.address
            grown.append(resident_bytes() - before)
    until(lambda: leaks.native_threads() <= native + 1)
    # If a loop or a server stayed (about 250 KB each), every round would hold 10 MB more; what is taken once,
    # in a process that had freed much before, it does not take again.
    assert min(grown) < 4 << 20


def test_cycles_with_calls_leave_nothing_behind(fake: list[str]) -> None:
    warm_up()
    with leaks.leak_check():
        for _ in range(20):
            with runtime.Server() as server, connect(server.address) as client:
                assert client.unary(RUN_STEP, b"echo") == b"echo"
                call = client.stream(STREAM_LOGS, b"forever")
                assert next(call) == b"more"
                server.stop(0)


def test_cycles_beside_a_channel_of_the_program_reuse_the_loop() -> None:
    """While the program holds a grpc.aio object, gRPC remembers every loop; so there must not be many."""

    async def scenario() -> None:
        async with aio.insecure_channel("127.0.0.1:1"):
            for _ in range(5):
                await asyncio.to_thread(cycle)
            before = resident_bytes()
            descriptors = leaks.open_descriptors()
            for _ in range(40):
                await asyncio.to_thread(cycle)
            assert resident_bytes() - before < 4 << 20
            assert not leaks.open_descriptors() - descriptors
            assert sum(map(len, loops._spare.values())) <= 2

    def cycle() -> None:
        with runtime.Server() as server, connect(server.address) as client:
            assert client.unary(HEALTH) == b"\x08\x01"

    warm_up()
    with leaks.leak_check():
        leaks.run_async(scenario, 100)
        warm_up()  # the next stop closes the loops that were kept
    assert not loops._spare


def test_two_servers_at_a_time() -> None:
    with runtime.Server() as one, runtime.Server() as other:
        assert one.address != other.address
        for server in (one, other):
            with connect(server.address) as client:
                assert client.unary(HEALTH) == b"\x08\x01"


def test_program_that_forgets_to_stop_ends_cleanly() -> None:
    script = "import runtime; server = runtime.Server(); print(server.target, flush=True)"
    done = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("grpc://127.0.0.1:")
    assert done.stderr == ""


def test_embedding_changes_nothing_in_the_process() -> None:
    script = (
        "import asyncio, logging, os, signal\n"
        "import grpc\n"  # sets GRPC_... of its own, if it does
        "def state():\n"
        "    log = logging.getLogger()\n"
        "    return (type(asyncio.get_event_loop_policy()), log.handlers[:], log.level,\n"
        "            dict(os.environ), signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT))\n"
        "before = state()\n"
        "import runtime\n"
        "with runtime.Server(): assert state() == before, (before, state())\n"
        "assert state() == before\n"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr


def until(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_s
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < deadline, "not reached in time"
        pause.wait(0.005)
