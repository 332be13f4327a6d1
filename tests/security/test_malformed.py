"""Bytes that are no message, and messages that are too large, to every method of every plane.

Each gets a status that says what is wrong; the server lives, holds no more memory, and answers the next good call.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import grpc
import pytest

from runtime import wire
from tests.processes import ServerProcess, start_server
from tests.security import calls
from tests.security.calls import (
    ABORTED,
    DATA_LOSS,
    INTERNAL,
    INVALID_ARGUMENT,
    METHODS,
    OK,
    RESOURCE_EXHAUSTED,
    UNAVAILABLE,
    UNIMPLEMENTED,
    UNKNOWN,
    Streams,
    status,
)
from tests.security.conftest import TRANSPORTS
from tests.security.samples import malformed, sample

LIMIT = 32 << 20
# What a call costs when it comes first (imports, tables) is no growth; neither is what the store keeps of tasks.
MAY_GROW = 96 << 20
# The session comes first: these messages' inner ones are read when it is known.
LATE = {"/tensorflow.MasterService/RunStep"}
GOOD = {
    "graph": ("/tensorflow.MasterService/CreateSession", wire.CreateSessionRequest()),
    "task": ("/runtime.v1.TaskInspector/ListSessions", wire.runtime_v1.ListSessionsRequest()),
    "command": ("/taskqueue.TaskQueue/ListWorkers", wire.SERVICES["taskqueue.TaskQueue"]["ListWorkers"].request()),
    "fleet": ("/pb.WorkerSaver/Check", wire.fleet.HealthCheckReq()),
    "stream": (calls.HEALTH, wire.health.HealthCheckRequest()),
    "edge": (calls.HEALTH, wire.health.HealthCheckRequest()),
}


@pytest.fixture(scope="module", params=TRANSPORTS)
def open_server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server of every plane that anyone on this machine may call."""
    folder = tmp_path_factory.mktemp(request.param)
    from runtime.authority.certificates import make_authority

    make_authority(folder / "pki", "test CA", 30)
    with start_server(
        folder, "--transport", request.param, "--authority", str(folder / "pki"), "--max-bytes-in-flight", str(LIMIT),
        "--command-providers", "none", "--command-max-workers", "0",
    ) as process:
        yield process


def resident(server: ServerProcess) -> int:
    text = Path(f"/proc/{server.pid}/status").read_text()
    return next(int(line.split()[1]) << 10 for line in text.splitlines() if line.startswith("VmRSS"))


def statuses(server: ServerProcess, method: wire.MethodType, requests: list[bytes], source: str
             ) -> list[tuple[int, str] | None]:
    """Call a method with each of the requests, all at once, from an address of its own."""
    with Streams(server.address, source=source) as client:
        opened = []
        for request in requests:
            # A sound message may wait for something that never comes.
            stream = client.open(method.path, (("grpc-timeout", "700m" if is_message(method, request) else "30S"),))
            client.send(stream, request)
            opened.append(stream)
        return client.results(opened, 60)


def all_statuses(
    server: ServerProcess, methods: Sequence[wire.MethodType], requests: Sequence[list[bytes]], sources: Sequence[str]
) -> list[list[tuple[int, str] | None]]:
    """Call methods with their requests, some of them at a time: those that wait do not hold up the others."""
    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(partial(statuses, server), methods, requests, sources))


def hosts(network: str) -> list[str]:
    """Return an address for every method."""
    return [f"{network}.{index}.1" for index in range(len(METHODS))]


def is_message(method: wire.MethodType, request: bytes) -> bool:
    try:
        method.request.FromString(request)
    except Exception:
        return False
    return True


def good_call(server: ServerProcess, plane: str) -> None:
    path, message = GOOD[plane]
    with grpc.insecure_channel(server.address, calls.UNLIMITED) as channel:
        channel.unary_unary(path)(message.SerializeToString(), timeout=20)


@pytest.mark.parametrize("service", wire.SERVICES)
def test_bytes_that_are_no_message_are_told_so(open_server: ServerProcess, service: str) -> None:
    portions: list[tuple[wire.MethodType, list[tuple[str, bytes]]]] = []
    sources: list[str] = []
    for index, method in enumerate(wire.SERVICES[service].values()):
        cases = list(malformed(method.request, method.path))
        # A host has fifty calls of the fleet at once: each portion comes from another one.
        for start in range(0, len(cases), 40):
            portions.append((method, cases[start:start + 40]))
            sources.append(f"127.{1 + list(wire.SERVICES).index(service)}.{index}.{start // 40 + 1}")
    answered = all_statuses(
        open_server, [method for method, _ in portions],
        [[request for _, request in cases] for _, cases in portions], sources)
    wrong = [
        (method.path, what, answer)
        for (method, cases), answers in zip(portions, answered, strict=True)
        for (what, request), answer in zip(cases, answers, strict=True) if not considered(method, request, answer)
    ]
    assert not wrong, "\n".join(map(str, wrong))
    good_call(open_server, wire.PLANES[service])
    assert open_server.process.poll() is None


def considered(method: wire.MethodType, request: bytes, answer: tuple[int, str] | None) -> bool:
    """Return whether the answer is one that somebody thought of."""
    if answer is None:
        return False
    code, text = answer
    if code == DATA_LOSS and "crc32c" in text:
        return True  # the streams of parcels have checksums, which are looked at first
    if not is_message(method, request):
        if method.path in LATE and code == ABORTED:
            return "is not found" in text
        return code in (INVALID_ARGUMENT, UNIMPLEMENTED) and bool(text)
    return code not in (UNKNOWN, INTERNAL, UNAVAILABLE, DATA_LOSS) and (code == OK or bool(text))


def test_a_message_larger_than_all_that_may_be_held_is_refused_by_its_length(open_server: ServerProcess) -> None:
    """Only the five bytes that announce it are sent."""
    before = resident(open_server)
    for announced in (LIMIT + 1, (1 << 31) - 1, (1 << 32) - 1):
        with Streams(open_server.address) as client:
            opened = {}
            for method in METHODS:
                opened[client.open(method.path)] = method
            for stream in opened:
                client.h2.send_data(stream, b"\0" + struct.pack(">I", announced))
            client.flush()
            answers = dict(zip(opened.values(), client.results(opened), strict=True))
        wrong = {
            method.path: answer for method, answer in answers.items()
            if answer is None or answer[0] not in (RESOURCE_EXHAUSTED, UNIMPLEMENTED) or not answer[1]
        }
        assert not wrong
        assert sum(answer is not None and answer[0] == RESOURCE_EXHAUSTED for answer in answers.values()) > 80
    assert resident(open_server) - before < MAY_GROW
    good_call(open_server, "graph")


def test_many_announced_messages_hold_no_memory(open_server: ServerProcess) -> None:
    """Calls that announce as much as may be held, and send nothing of it, take turns in being refused, not memory."""
    method = wire.SERVICES["tensorflow.MasterService"]["RunStep"]
    before = resident(open_server)
    with Streams(open_server.address) as client:
        opened = [client.open(method.path) for _ in range(300)]
        for stream in opened:
            client.h2.send_data(stream, b"\0" + struct.pack(">I", LIMIT // 2))
        client.flush()
        for _ in range(5):
            client.read(0.2)
        assert resident(open_server) - before < MAY_GROW
    good_call(open_server, "graph")


def test_sound_messages_filled_to_the_brim_are_answered(open_server: ServerProcess) -> None:
    """Every field has a value, as no sound client would set them together: an answer, or a refusal with a reason."""
    requests = [sample(method.request).SerializeToString() for method in METHODS]
    answers = all_statuses(
        open_server, METHODS, [[request, request * 2] for request in requests], hosts("127.200"))
    wrong = [
        (method.path, one) for method, request, answer in zip(METHODS, requests, answers, strict=True)
        for one in answer if not considered(method, request, one)
    ]
    assert not wrong, "\n".join(map(str, wrong))


def test_memory_is_where_it_was(open_server: ServerProcess) -> None:
    """All of it once more: what the first round left is all that is left."""
    before = resident(open_server)
    requests = [[request for _, request in malformed(method.request, "again")][:12] for method in METHODS]
    all_statuses(open_server, METHODS, requests, hosts("127.201"))
    assert resident(open_server) - before < MAY_GROW
    for plane in GOOD:
        good_call(open_server, plane)
    with grpc.insecure_channel(open_server.address) as channel:
        assert status(channel, wire.SERVICES["grpc.health.v1.Health"]["Check"], [b""])[0] == OK
    assert "Traceback" not in open_server.log()
