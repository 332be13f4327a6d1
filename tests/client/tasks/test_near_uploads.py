"""Payloads that a client writes into the file of a server of its machine, and the ways back to sending them."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import itertools
import os
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import runtime
from runtime import wire
from runtime._ext.http2_client_stream import StreamCall
from runtime._ext.message_parts import MessageParts
from runtime.client.tasks import near, near_uploads
from runtime.client.tasks import session as session_module
from runtime.client.tasks.calls import Calls
from runtime.client.tasks.creation import NewTask
from runtime.client.tasks.near import NearFile, NotNear, hello_to
from runtime.client.tasks.payloads import Payload
from runtime.client.tasks.uploads import Upload
from runtime.errors import AlreadyExists, FailedPrecondition, Unavailable
from runtime.objects.head import answer_to, write_head
from runtime.objects.locks import is_locked
from runtime.tasks.early import EarlyTasks
from runtime.transport.place import here
from tests.client.tasks.conftest import running_worker
from tests.leaks import leak_check, run_async

R = wire.runtime_v1
TIMEOUT_S = 60.0
NEAR, FAR = "/runtime.v1.TaskUploads/CreateNear", "/runtime.v1.TaskUploads/Create"
LOCKS = 1 << 62


class Seen:
    """The streams that were opened, and how many bytes were sent on them."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.num_sent = 0


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    """What goes to the server by streams of uploads."""
    monkeypatch.setattr(session_module, "_NEAR_BYTES", 1)
    found = Seen()
    stream = Calls.stream

    class Counting:
        def __init__(self, call: StreamCall) -> None:
            self._call = call
            self.receive, self.done_sending, self.cancel = call.receive, call.done_sending, call.cancel

        async def send(self, message: bytes | MessageParts) -> None:
            found.num_sent += len(message)
            await self._call.send(message)

    @contextlib.asynccontextmanager
    async def counted(self: Calls, path: str) -> AsyncIterator[Any]:
        if "TaskUploads" not in path:
            async with stream(self, path) as call:
                yield call
            return
        found.paths.append(path)
        async with stream(self, path) as call:
            yield Counting(call)

    monkeypatch.setattr(Calls, "stream", counted)
    return found


def payloads_of(sizes: Sequence[int]) -> list[bytes]:
    return [b"digest %d " % index + os.urandom(size) for index, size in enumerate(sizes)]


def digests(payloads: Sequence[bytes]) -> list[bytes]:
    return [hashlib.sha256(payload).digest() for payload in payloads]


@contextlib.contextmanager
def no_threads() -> Iterator[None]:
    """Check that no thread is left that writes payloads."""
    yield
    deadline = time.monotonic() + TIMEOUT_S
    while any(thread.name.startswith("near-uploads") for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.01)


@contextlib.contextmanager
def nothing_locked(folder: Path) -> Iterator[None]:
    """Check that no client holds a lock afterwards."""
    yield
    file = os.open(folder / "objects" / "arena", os.O_RDWR)
    deadline = time.monotonic() + TIMEOUT_S
    try:
        while is_locked(file, LOCKS, LOCKS):
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        os.close(file)


def test_payloads_do_not_cross_the_connection(worked: str, seen: Seen) -> None:
    sizes = [20_000, 1, 100_000, 4_000_000, 30_000, 16_384, 16_385, 1_000_000] * 6
    payloads = payloads_of(sizes)
    with no_threads(), runtime.TaskClient(worked) as client, client.session() as session:
        for _ in range(2):
            assert session.gather(session.map(payloads), timeout_s=TIMEOUT_S) == digests(payloads)
        given: list[Any] = [memoryview(payloads[2]), bytearray(payloads[3]), payloads[0]]
        assert session.gather(session.map(given), timeout_s=TIMEOUT_S) == digests(given)
        assert seen.paths == [NEAR] * 3
        # Those of at most 16 KiB go along.
        assert seen.num_sent < sum(size for size in sizes if size <= 16_384) * 2 + 100_000


def test_quick_tasks_begin_before_their_payloads_are_durable(
    worked: str, seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[int] = []
    begin = EarlyTasks._begin

    def counted(self: EarlyTasks, group: Any, leases: Sequence[Any]) -> None:
        begun.append(len(leases))
        begin(self, group, leases)

    monkeypatch.setattr(EarlyTasks, "_begin", counted)
    payloads = payloads_of([50_000] * 40)
    deadline = time.monotonic() + TIMEOUT_S
    with no_threads(), runtime.TaskClient(worked) as client, client.session() as session:
        # How long tasks take is not known before some have ended.
        for number in itertools.count(1):
            assert session.gather(session.map(payloads), timeout_s=TIMEOUT_S) == digests(payloads)
            assert session.counts() == {"COMPLETED": 40 * number}
            if begun:
                break
            assert time.monotonic() < deadline, "no task has begun early"
        # Where others could have the same ids, tasks are made first.
        begun.clear()
        ids = [f"mine {index}" for index in range(40)]
        handles = session.submit_all(payloads, ids=ids)
        assert session.gather(handles, timeout_s=TIMEOUT_S) == digests(payloads)
        assert not begun
    assert set(seen.paths) == {NEAR}


def test_many_payloads_that_are_hardly_medium_are_written(worked: str, seen: Seen) -> None:
    payloads = payloads_of([16_500] * 4000)
    with runtime.TaskClient(worked) as client, client.session() as session:
        assert session.gather(session.map(payloads), timeout_s=TIMEOUT_S) == digests(payloads)
    assert seen.paths == [NEAR] and seen.num_sent < 4000 * 300


def test_the_transport_does_not_matter(tmp_path: Path, seen: Seen) -> None:
    payloads = payloads_of([300_000] * 40)
    changes: dict[str, Any] = {"task_check_s": 0.2, "grace_s": 0.0, "transport": "grpc"}
    with (
        runtime.Server(services=("task",), data_dir=tmp_path, **changes) as server,
        running_worker(server.target),
        runtime.TaskClient(server.target) as client,
        client.session() as session,
    ):
        assert session.gather(session.map(payloads), timeout_s=TIMEOUT_S) == digests(payloads)
    assert seen.paths == [NEAR]


def test_a_few_payloads_are_sent(worked: str, seen: Seen, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    with runtime.TaskClient(worked) as client, client.session() as session:
        opened: list[str] = []
        stream = client.asynchronous.calls.stream
        monkeypatch.setattr(client.asynchronous.calls, "stream", lambda path: opened.append(path) or stream(path))
        for sizes, path in (([400_000], FAR), ([1_000_000] * 4, FAR), ([1_100_000] * 4, NEAR), ([500_000] * 9, NEAR)):
            payloads = payloads_of(sizes)
            assert session.gather(session.map(payloads), timeout_s=TIMEOUT_S) == digests(payloads)
            assert opened.pop() == path
        assert session.submit(payloads_of([400_000])[0]).result(timeout_s=TIMEOUT_S) and opened.pop() == FAR
        client.asynchronous.may_be_near = False
        payloads = payloads_of([1_000_000] * 9)
        assert session.gather(session.map(payloads), timeout_s=TIMEOUT_S) == digests(payloads)
        assert opened.pop() == FAR


def test_large_payloads_and_files_go_as_before(worked: str, seen: Seen, tmp_path: Path) -> None:
    payloads = payloads_of([5_000_000, 20_000, 50_000, 4 << 20])
    path = tmp_path / "payload"
    path.write_bytes(payloads[1])
    with runtime.TaskClient(worked) as client, client.session() as session:
        found = session.gather(session.map([payloads[0], path, payloads[2], payloads[3]]), timeout_s=TIMEOUT_S)
        assert found == digests(payloads) and seen.paths == [NEAR] and seen.num_sent < 10_000


def test_arrays_are_written_as_well(unworked: runtime.Server, seen: Seen) -> None:
    with (
        running_worker(unworked.target, "scale"),
        runtime.TaskClient(unworked.target, arrays=True) as client,
        client.session() as session,
    ):
        tasks = session.map([{"x": np.arange(10_000.0) + k, "factor": np.float64(2)} for k in range(9)])
        for number, result in enumerate(session.gather(tasks, timeout_s=TIMEOUT_S)):
            np.testing.assert_array_equal(result["y"], (np.arange(10_000.0) + number) * 2)
        assert seen.paths == [NEAR]


def test_tasks_wait_for_others_and_have_options_of_their_own(worked: str, seen: Seen) -> None:
    with runtime.TaskClient(worked) as client, client.session() as session:
        first = session.map([b"echo " + b"%d" % index * 20_000 for index in range(3)], max_retries=1)
        (joined,) = session.submit_all([b"join " + b"x" * 30_000], dependencies=[first], keys=[["named"]], priority=3)
        assert session.gather([joined], timeout_s=TIMEOUT_S) == [b"+".join(b"%d" % k * 20_000 for k in range(3))]
        assert seen.paths == [NEAR] * 2


def unreadable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near, "open_values", lambda *_: None)  # another user, or another file system


def of_another_boot(monkeypatch: pytest.MonkeyPatch) -> None:
    place = here()
    monkeypatch.setattr(near, "here", lambda: type(place)("another", place.user_id, 1))


def without_a_boot(monkeypatch: pytest.MonkeyPatch) -> None:
    place = here()
    monkeypatch.setattr(near, "here", lambda: type(place)("", place.user_id, 1))


def without_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EINVAL, "no such locks")

    monkeypatch.setattr(near, "lock", refuse)


def with_locks_that_the_server_does_not_see(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near, "lock", lambda *_: None)


def with_a_server_that_cannot_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near, "answer_to", lambda who, *_: who)


@pytest.mark.parametrize("where", [
    unreadable, of_another_boot, without_a_boot, without_locks, with_locks_that_the_server_does_not_see,
    with_a_server_that_cannot_read,
])
def test_who_is_not_near_sends_payloads_and_asks_no_more(
    worked: str, seen: Seen, monkeypatch: pytest.MonkeyPatch, where: Callable[[pytest.MonkeyPatch], None]
) -> None:
    where(monkeypatch)
    payloads = payloads_of([20_000, 1, 100_000, 3_000_000] * 5)
    with no_threads(), runtime.TaskClient(worked) as client, client.session() as session:
        for _ in range(2):
            assert session.gather(session.map(payloads), timeout_s=TIMEOUT_S) == digests(payloads)
    assert seen.paths == [NEAR][where is without_a_boot :] + [FAR, FAR]


def test_a_server_without_room_has_payloads_sent_on_the_same_stream(tmp_path: Path, seen: Seen) -> None:
    payloads = payloads_of([200_000] * 60)
    changes: dict[str, Any] = {"task_check_s": 0.2, "grace_s": 0.0, "task_arena_size": "4MiB"}
    with (
        runtime.Server(services=("task",), data_dir=tmp_path, **changes) as server,
        running_worker(server.target),
        runtime.TaskClient(server.target) as client,
        client.session() as session,
    ):
        assert session.gather(session.map(payloads), timeout_s=TIMEOUT_S) == digests(payloads)
    assert seen.paths == [NEAR] and seen.num_sent > 60 * 200_000 - (4 << 20)


@pytest.mark.parametrize("at", [1, 2])
def test_a_write_that_fails_has_the_rest_sent(
    worked: str, seen: Seen, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    write, number = near.write_values, 0

    def failing(*arguments: Any) -> list[int]:
        nonlocal number
        number += 1
        if number >= at:
            raise OSError(errno.EIO, "the disk fails")
        return write(*arguments)

    monkeypatch.setattr(near, "write_values", failing)
    payloads = payloads_of([1_000_000] * 30)
    with runtime.TaskClient(worked) as client, client.session() as session:
        handles = session.map(payloads)
        assert session.gather(handles, timeout_s=TIMEOUT_S) == digests(payloads)
        assert session.counts() == {"COMPLETED": 30}
    assert seen.paths == [NEAR, FAR]


@pytest.mark.parametrize("breaks", [(1,), (2,), (3,), (4, 6), (5, 8, 11)])
def test_what_was_not_answered_is_written_again_when_the_connection_is_lost(
    worked: str, monkeypatch: pytest.MonkeyPatch, breaks: tuple[int, ...]
) -> None:
    stream = Calls.stream
    num_answers = num_calls = 0

    class Breaking:
        def __init__(self, call: StreamCall) -> None:
            self._call = call
            self.send, self.done_sending, self.cancel = call.send, call.done_sending, call.cancel

        async def receive(self) -> bytes | None:
            nonlocal num_answers
            answer = await self._call.receive()
            num_answers += 1
            if num_answers in breaks:
                raise Unavailable("the connection was lost")
            return answer

    @contextlib.asynccontextmanager
    async def breaking(self: Calls, path: str) -> AsyncIterator[Any]:
        nonlocal num_calls
        async with stream(self, path) as call:
            num_calls += path == NEAR
            yield Breaking(call) if path == NEAR else call

    monkeypatch.setattr(Calls, "stream", breaking)
    payloads = payloads_of([1_000_000] * 40)
    with no_threads(), runtime.TaskClient(worked) as client, client.session() as session:
        handles = session.map(payloads)
        assert session.gather(handles, timeout_s=TIMEOUT_S) == digests(payloads)
        assert session.counts() == {"COMPLETED": 40}
        # One more for each group that had been stored: it is refused, and nothing behind it is taken.
        assert num_calls >= 1 + len(breaks)


def test_refused_groups_leave_those_before_them_and_no_lock(
    unworked: runtime.Server, seen: Seen, tmp_path: Path
) -> None:
    with nothing_locked(tmp_path / "own"), runtime.TaskClient(unworked.target) as client, client.session() as session:
        session.submit(b"x", id="taken")
        ids = [f"t{number}" for number in range(40)]
        with pytest.raises(AlreadyExists, match=r"'taken'; none was stored; the first 14 of 41 tasks are stored"):
            session.submit_all([b"x" * 1_000_000] * 41, ids=[*ids[:26], "taken", *ids[26:]])
        assert session.counts() == {"SUBMITTED": 15}
        session.cancel()
        with pytest.raises(FailedPrecondition, match="is canceled"):
            session.map([b"x" * 1_000_000] * 9)
        assert set(seen.paths) == {NEAR}


def test_who_is_cancelled_lets_the_lock_go_when_nothing_is_written_any_more(
    unworked: runtime.Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = near.write_values
    states: list[bool] = []
    arena = tmp_path / "own" / "objects" / "arena"

    def slow(*arguments: Any) -> list[int]:
        time.sleep(0.3)
        file = os.open(arena, os.O_RDWR)
        states.append(is_locked(file, LOCKS, LOCKS))
        os.close(file)
        return write(*arguments)

    monkeypatch.setattr(near, "write_values", slow)

    async def work() -> None:
        async with runtime.AsyncTaskClient(unworked.target) as client:
            session = client.session()
            mapping = asyncio.ensure_future(session.map([b"x" * 1_000_000] * 40))
            await asyncio.sleep(0.15)
            mapping.cancel()
            with pytest.raises(asyncio.CancelledError):
                await mapping
            assert await session.counts() == {}

    with no_threads(), nothing_locked(tmp_path / "own"):
        run_async(work)
    assert states == [True], "it was locked when it wrote, and what had not begun was not written"


def test_a_process_that_is_forked_off_does_not_keep_the_lock(unworked: runtime.Server, tmp_path: Path) -> None:
    hello = hello_to(may_begin=True)
    arena = tmp_path / "arena"
    file = os.open(arena, os.O_RDWR | os.O_CREAT)
    secret = write_head(file)
    reply = reply_for(hello, arena, secret)
    opened = NearFile.open(hello, reply)
    assert is_locked(file, reply.lock_at)
    gate, child_gate = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(child_gate)
        status = 0 if opened._file == -1 else 1
        os.read(gate, 1)
        os._exit(status)
    os.close(gate)
    opened.close().result(TIMEOUT_S)
    assert not is_locked(file, reply.lock_at)
    os.close(child_gate)
    assert os.waitpid(pid, 0)[1] == 0
    os.close(file)


def reply_for(hello: Any, file: Path, secret: bytes, **changes: Any) -> Any:
    """Return what a server would say of a file."""
    status = file.stat()
    challenge = bytes(range(32))
    told = {
        "path": str(file), "boot_id": here().boot_id, "device": status.st_dev, "number": status.st_ino,
        "proof": answer_to(b"server", hello.challenge + challenge, secret), **changes,
    }
    return R.NearReply(file=R.PlacesFile(**told), challenge=challenge, lock_at=LOCKS + 7)


@pytest.mark.parametrize("change", [
    {"path": ""}, {"path": "/nowhere"}, {"path": "a\0b"}, {"path": "/dev/zero"}, {"path": "/proc"}, {"device": 1},
    {"number": 1}, {"boot_id": ""}, {"boot_id": "another"}, {"proof": b""}, {"proof": bytes(32)},
])
def test_only_the_very_file_of_a_server_that_can_read_it_is_written_to(tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "arena"
    file = os.open(path, os.O_RDWR | os.O_CREAT)
    secret = write_head(file)
    hello = hello_to(may_begin=True)
    with leak_check():
        with pytest.raises(NotNear):
            NearFile.open(hello, reply_for(hello, path, secret, **change))
        NearFile.open(hello, reply_for(hello, path, secret)).close().result(TIMEOUT_S)
    link = tmp_path / "link"
    link.symlink_to(path)
    with pytest.raises(NotNear):
        NearFile.open(hello, reply_for(hello, path, secret, path=str(link)))
    with pytest.raises(NotNear):  # an answer to another challenge
        NearFile.open(hello, reply_for(hello_to(may_begin=True), path, secret))
    os.pwrite(file, b"another kind of file", 0)
    with pytest.raises(NotNear):
        NearFile.open(hello, reply_for(hello, path, secret))
    os.close(file)


def test_a_byte_that_somebody_else_has_locked_is_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "arena"
    file = os.open(path, os.O_RDWR | os.O_CREAT)
    secret = write_head(file)
    hello = hello_to(may_begin=True)
    reply = reply_for(hello, path, secret)
    one = NearFile.open(hello, reply)
    with pytest.raises(NotNear):
        NearFile.open(hello, reply)
    one.close().result(TIMEOUT_S)
    NearFile.open(hello, reply).close().result(TIMEOUT_S)
    reply.lock_at = (1 << 64) - 1
    with pytest.raises(NotNear):
        NearFile.open(hello, reply)
    os.close(file)


def test_a_server_that_lends_more_than_was_asked_is_not_believed(unworked: runtime.Server) -> None:
    async def work() -> None:
        async with runtime.AsyncTaskClient(unworked.target) as client:
            options: Any = wire.armonik.TaskOptions()
            upload = near_uploads.NearUpload(client.calls, "s", iter(()), options, None, may_begin=True)
            with pytest.raises(Unavailable, match="lends more places"):
                upload._lent(None, deque(), [4096], are_synced=True)  # type: ignore[arg-type]

    run_async(work)


def test_a_break_behind_the_last_answer_is_no_reason_to_call_again() -> None:
    num_calls = 0

    class Call:
        def __init__(self) -> None:
            self._is_sent = asyncio.Event()
            self._is_answered = False

        async def send(self, message: Any) -> None:
            self._is_sent.set()
            await asyncio.Event().wait()  # the server has it, and nobody hears that it was sent

        async def receive(self) -> bytes:
            await self._is_sent.wait()
            if self._is_answered:
                raise Unavailable("the connection was lost")
            self._is_answered = True
            return wire.armonik.CreateTaskReply(successfull=wire.armonik.Empty()).SerializeToString()

    class Server:
        @contextlib.asynccontextmanager
        async def stream(self, path: str) -> AsyncIterator[Any]:
            nonlocal num_calls
            num_calls += 1
            yield Call()

        async def repeated(self, work: Callable[[], Any]) -> None:
            while True:
                with contextlib.suppress(Unavailable):
                    return await work()

    async def work() -> None:
        stored: list[Any] = []

        async def answered(group: Sequence[Any], refused: list[str], times: int) -> list[Any]:
            stored.extend(group)
            return []

        group = [NewTask("t", ("t",), (), Payload(b"x", False))]
        calls: Any = Server()
        await Upload(calls, "s", iter([group]), wire.armonik.TaskOptions(), answered).run()
        assert stored == group

    run_async(work)
    assert num_calls == 1
