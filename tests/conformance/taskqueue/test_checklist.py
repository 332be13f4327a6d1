"""The task queue's checklist, item by item, through raw stubs against a server."""

from __future__ import annotations

import concurrent.futures
import contextlib
import itertools
import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

import runtime
from runtime.cli import main
from runtime.edge import tokens
from runtime.errors import FailedPrecondition
from runtime.store import failpoints
from tests.commands import fake_provider
from tests.commands.agents import agent, marked
from tests.commands.fake_provider import FakeProvider
from tests.conformance.taskqueue.client import Queue, code, connect, serving, wait_until
from tests.conformance.taskqueue.messages import CLASSES
from tests.processes import free_port, serve_command, start_server

INVALID = grpc.StatusCode.INVALID_ARGUMENT
NOT_FOUND = grpc.StatusCode.NOT_FOUND
PRECONDITION = grpc.StatusCode.FAILED_PRECONDITION
ABORTED = grpc.StatusCode.ABORTED
IDS = itertools.count()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Queue]:
    """One server for all tests that look at their own tasks and workers alone."""
    with serving(tmp_path_factory.mktemp("queue")) as queue:
        yield queue


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[Queue]:
    with serving(tmp_path) as queue:
        yield queue


def run(queue: Queue, concurrency: int = 1) -> tuple[int, int]:
    """Return a new worker and a new task that it has accepted; nothing else may be waiting."""
    worker = queue.register(f"worker of {next(IDS)}", concurrency)
    task = queue.submit()
    assert queue.ping(worker) == [(task, "A")]
    queue.update(task, "C")
    return worker, task


def test_01_submitting(queue: Queue) -> None:
    assert queue.submit() != 0
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        ids = list(pool.map(lambda _: queue.submit(), range(100)))
    assert len(set(ids)) == 100
    assert set(queue.statuses().values()) == {"P"}


def test_02_list_echoes_texts(queue: Queue) -> None:
    texts = ["echo 'a' \"b\"", "first\nsecond\n", "echo 🙂 é", " \t", "true"]
    ids = [queue.submit(text, f"image:{number}") for number, text in enumerate(texts)]
    listed = queue.tasks()
    assert [task.task_id for task in listed] == sorted(ids)
    assert [(task.command, task.container) for task in listed] == [
        (text, f"image:{number}") for number, text in enumerate(texts)
    ]


def test_03_status_filter(queue: Queue) -> None:
    first, second, third = (queue.submit() for _ in range(3))
    queue.update(second, "S")
    queue.update(third, "X")
    assert [task.task_id for task in queue.tasks("P")] == [first]
    assert [task.task_id for task in queue.tasks("SX")] == [second, third]
    assert queue.tasks("") == queue.tasks()
    assert queue.tasks("Q") == []
    assert [task.task_id for task in queue.tasks(x_tq_offset=1, x_tq_limit=1)] == [second]


def test_04_bad_commands(queue: Queue) -> None:
    assert code(lambda: queue.submit("")) is INVALID
    assert code(lambda: queue.submit("a\0b")) is INVALID
    assert code(lambda: queue.submit("true", "a\0b")) is INVALID
    assert code(lambda: queue.submit("x" * ((1 << 20) + 1))) is INVALID
    assert code(lambda: queue.submit("true", "x" * 4097)) is INVALID
    assert code(lambda: queue.submit("x" * (9 << 20))) is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert queue.tasks() == []
    assert queue.submit("é" * (1 << 19)) != 0
    assert queue.tasks()[0].container == "bare"


def test_05_registering_twice(queue: Queue) -> None:
    assert queue.register("one") == queue.register("one")
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        assert len(set(pool.map(lambda _: queue.register("two"), range(32)))) == 1
    assert queue.register("One") != queue.register("one")
    assert [name for _, name, _ in queue.workers()] == ["one", "two", "One"]
    for bad in ("", "a\0", "x" * 256):
        assert code(lambda bad=bad: queue.register(bad)) is INVALID  # type: ignore[misc]


def test_06_concurrency(queue: Queue) -> None:
    absent = queue.register("absent")
    assert queue.ping_whole(absent).concurrency == 1
    three = queue.register("three", 3)
    assert queue.ping_whole(three).concurrency == 3
    queue.register("three", 5)
    assert queue.ping_whole(three).concurrency == 3
    assert code(lambda: queue.register("many", 4097)) is INVALID


def test_06_a_server_may_let_workers_decide(tmp_path: Path) -> None:
    with serving(tmp_path, command_request_sets_concurrency=True) as queue:
        worker = queue.register("w", 3)
        queue.register("w", 5)
        assert queue.ping_whole(worker).concurrency == 5


def test_07_unknown_workers(served: Queue) -> None:
    assert code(lambda: served.ping(4_000_000_000)) is NOT_FOUND
    assert code(lambda: served.ping(0)) is INVALID


def test_08_as_many_as_the_worker_runs(queue: Queue) -> None:
    worker = queue.register("w", 2)
    tasks = [queue.submit() for _ in range(5)]
    taken = queue.ping(worker) + queue.ping(worker)
    assert taken == [(tasks[0], "A"), (tasks[1], "A")]
    assert sorted(queue.statuses().values()) == ["A", "A", "P", "P", "P"]


def test_09_a_slot_that_gets_free_is_used(queue: Queue) -> None:
    worker = queue.register("w", 2)
    tasks = [queue.submit() for _ in range(6)]
    seen = [task for task, _ in queue.ping(worker)]
    for state in "CDOR":
        for task in seen:
            queue.update(task, state)
        assert queue.ping(worker) == []
        assert sum(status in "ACDOR" for status in queue.statuses().values()) == 2
    queue.update(seen[0], "S")
    assert queue.ping(worker) == [(tasks[2], "A")]
    # What only hands in its results takes no slot.
    queue.update(seen[1], "U")
    assert queue.ping(worker) == [(tasks[3], "A")]
    assert sum(status in "ACDOR" for status in queue.statuses().values()) == 2


def test_10_redelivery(tmp_path: Path) -> None:
    with serving(tmp_path, command_redelivery_s=1.5) as queue:
        worker, task = queue.register("w"), queue.submit()
        assert queue.ping(worker) == [(task, "A")]
        begin = time.monotonic()
        assert queue.ping(worker) == []
        wait_until(lambda: queue.ping(worker) == [(task, "A")], "offered again")
        assert time.monotonic() - begin > 1.0
        # Nobody confirms it: after four periods it is there for anyone.
        other = queue.register("other")
        taken: list[tuple[int, str]] = []

        def given() -> bool:
            queue.ping(worker)
            taken.extend(queue.ping(other))
            return bool(taken)

        wait_until(given, "given to another")
        assert taken == [(task, "A")]


def test_10_what_is_stored_and_not_told_yet_is_offered_once(queue: Queue) -> None:
    worker = queue.register("w", 1)
    assert queue.ping(worker) == []
    # The assignment can be read for so long before anybody here hears of it.
    failpoints.set_failpoint("store.commit.after", "delay:0.3")
    try:
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            submitting = pool.submit(queue.submit)
            listed = []
            while not submitting.done():
                listed += queue.ping(worker)
            listed += queue.ping(worker)
    finally:
        failpoints.clear()
    assert listed == [(submitting.result(), "A")]


def test_11_spread_over_workers(queue: Queue) -> None:
    workers = [queue.register(name, 4) for name in ("one", "two")]
    tasks = {queue.submit() for _ in range(4)}
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda n: (n % 2, queue.ping(workers[n % 2])), range(50)))
    taken = {n: [task for m, answer in answers if m == n for task, _ in answer] for n in (0, 1)}
    assert [len(taken[0]), len(taken[1])] == [2, 2]
    assert set(taken[0]) | set(taken[1]) == tasks


def test_12_paused_worker(queue: Queue) -> None:
    worker = queue.register("w", 0)
    queue.submit()
    assert queue.ping(worker) == queue.ping(worker) == []
    assert queue.tasks("P")


def test_13_no_delay(queue: Queue) -> None:
    worker = queue.register("w", 1)
    assert queue.ping(worker) == []
    task = queue.submit()
    assert queue.ping(worker) == [(task, "A")]


def test_13_a_ping_may_wait_for_work(queue: Queue) -> None:
    worker = queue.register("w", 1, x_tq_worker_instance="i")
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(queue.ping, worker, x_tq_worker_instance="i", x_tq_ping_hold_ms=3000)
        time.sleep(0.3)
        task = queue.submit()
        assert waiting.result() == [(task, "A")]


def test_14_short_paths(queue: Queue) -> None:
    worker = queue.register("w", 1)
    for path in ("CS", "CF", "S", "CRUS", "CDORVF", "RS", "DF"):
        task = queue.submit()
        assert queue.ping(worker) == [(task, "A")]
        queue.path(task, path)
        assert queue.status(task) == path[-1]


def test_14_pending_is_not_accepted(queue: Queue) -> None:
    task = queue.submit()
    for status in "CDORUVA":
        assert code(lambda status=status: queue.update(task, status)) is PRECONDITION  # type: ignore[misc]
    assert queue.status(task) == "P"


@pytest.mark.parametrize(("path", "refused"), [("CR", "CDOA"), ("CRU", "RCDOVZP"), ("CV", "RUSZ"), ("Z", "CRSFA"),
                                               ("X", "CSFZ"), ("F", "CSXZ")])
def test_14_no_way_back(queue: Queue, path: str, refused: str) -> None:
    worker, task = queue.register(), queue.submit()
    queue.ping(worker)
    queue.path(task, path)
    for status in refused:
        if status != path[-1]:
            assert code(lambda status=status: queue.update(task, status)) is PRECONDITION  # type: ignore[misc]
    assert queue.status(task) == path[-1]


def test_15_an_end_is_an_end(queue: Queue) -> None:
    _, task = run(queue)
    queue.update(task, "S")
    assert code(lambda: queue.update(task, "F")) is PRECONDITION
    assert queue.status(task) == "S"
    assert queue.update(task, "S")


def test_16_requeue(queue: Queue) -> None:
    worker, task = run(queue)
    queue.send([(task, "O", "before")])
    queue.update(task, "F")
    assert queue.update(task, "P")
    assert queue.ping(worker) == [(task, "A")]
    queue.update(task, "C")
    queue.send([(task, "O", "after")])
    queue.update(task, "S")
    assert queue.output(task) == [("O", "before"), ("stderr", "attempt 2"), ("O", "after")]


def test_17_bad_updates(served: Queue) -> None:
    task = served.submit("x", "nobody runs this")
    for bad in ("", "s", "SS", "W", "I", "?", "é"):
        assert code(lambda bad=bad: served.update(task, bad)) is INVALID  # type: ignore[misc]
    assert code(lambda: served.update(4_000_000_000, "S")) is NOT_FOUND
    assert code(lambda: served.update(0, "S")) is INVALID
    served.update(task, "X")


def test_18_registering_again(queue: Queue) -> None:
    worker = queue.register("w", 6)
    tasks = [queue.submit() for _ in range(6)]
    queue.ping(worker)
    assigned, *others = tasks
    for task, path in zip(others, ("C", "CR", "CRU", "CV", "CDO"), strict=True):
        queue.path(task, path)
    assert queue.register("w", 6) == worker
    assert queue.statuses() == {assigned: "A", **dict.fromkeys(others, "F")}
    # Offered at once, although it was not long ago.
    assert queue.ping(worker) == [(assigned, "A")]
    for task in others:
        wait_until(lambda task=task: queue.output(task), "a line that explains it")  # type: ignore[misc]
        ((kind, text),) = queue.output(task)
        assert kind == "stderr" and "started anew" in text


def test_18_a_server_may_requeue(tmp_path: Path) -> None:
    with serving(tmp_path, command_on_restart="requeue") as queue:
        worker, task = run(queue)
        queue.register(queue.workers()[0][1])
        assert queue.ping(worker) == [(task, "A")]


def test_18_what_the_new_process_still_has_stays(queue: Queue) -> None:
    worker = queue.register("w", 2, x_tq_worker_instance="old")
    kept, lost = queue.submit(), queue.submit()
    queue.ping(worker)
    queue.path(kept, "CR")
    queue.path(lost, "CR")
    assert queue.register("w", x_tq_worker_instance="new", x_tq_owned=f"{kept}.1") == worker
    assert queue.statuses() == {kept: "R", lost: "F"}
    new = {"x_tq_worker_id": worker, "x_tq_worker_instance": "new", "x_tq_attempt": 1}
    old = {**new, "x_tq_worker_instance": "old"}
    assert code(lambda: queue.update(kept, "S", **old)) is ABORTED
    assert code(lambda: queue.ping(worker, x_tq_worker_instance="old")) is ABORTED
    assert queue.update(kept, "S", **new)


def test_18_what_a_worker_does_not_name_any_more_is_lost(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.commands.pings.MISSING_S", 0.3)
    worker = queue.register("w", 2, x_tq_worker_instance="i")
    named, missing = queue.submit(), queue.submit()
    queue.ping(worker, x_tq_worker_instance="i")
    queue.path(named, "CR")
    queue.path(missing, "CR")
    queue.ping(worker, x_tq_worker_instance="i", x_tq_owned=f"{named}.1")
    assert queue.status(missing) == "R"
    time.sleep(0.4)
    queue.ping(worker, x_tq_worker_instance="i", x_tq_owned=f"{named}.1")
    assert queue.statuses() == {named: "R", missing: "F"}


def test_19_silent_worker(tmp_path: Path) -> None:
    with serving(tmp_path, command_offline_s=1.0) as queue, connect(queue.address) as elsewhere:
        silent = queue.register("silent", 2)
        task = queue.submit()
        other = elsewhere.register("other", 1)
        wait_until(lambda: elsewhere.ping(other) == [(task, "A")], "given to another worker")
        elsewhere.path(task, "C")
        # Not even while the other one is busy.
        waiting = queue.submit()
        assert elsewhere.ping(other) == []
        assert queue.status(waiting) == "P"
        elsewhere.path(task, "S")
        assert elsewhere.ping(other) == [(waiting, "A")]
        another = queue.submit()
        assert queue.ping(silent) == [(another, "A")]


def test_20_evicted_worker(tmp_path: Path) -> None:
    options = {"command_offline_s": 0.5, "command_evict_s": 1.0, "command_max_attempts": 2}
    with serving(tmp_path, **options) as queue, connect(queue.address) as elsewhere:
        first = queue.register("first", 1, x_tq_worker_instance="a")
        task = queue.submit()
        identity = {"x_tq_worker_id": first, "x_tq_worker_instance": "a", "x_tq_attempt": 1}
        assert queue.ping(first, x_tq_worker_instance="a") == [(task, "A")]
        queue.path(task, "CR", **identity)
        second = elsewhere.register("second", 1)
        wait_until(lambda: elsewhere.ping(second) == [(task, "A")], "given to another worker")
        elsewhere.path(task, "CR")
        for status in "FSR":
            assert code(lambda status=status: queue.update(task, status, **identity)) is ABORTED  # type: ignore[misc]
        answer, trailers = queue.stub.call_with_trailers(
            "PingAndTakeNewTasks", CLASSES["WorkerId"](worker_id=first), x_tq_worker_instance="a",
            x_tq_owned=f"{task}.1",
        )
        assert trailers["x-tq-lost"] == str(task) and not answer.tasks
        # The second one is lost as well, and that was the last attempt.
        wait_until(lambda: queue.status(task) == "F", "failed for good")
        wait_until(lambda: len(queue.output(task)) == 3, "what happened, in its log")
        texts = [text for _, text in queue.output(task)]
        assert "silent" in texts[0] and texts[1] == "attempt 2" and "last of 2" in texts[2]


def test_20_late_success_counts_while_the_task_waits(tmp_path: Path) -> None:
    with serving(tmp_path, command_offline_s=0.5, command_evict_s=1.0) as queue:
        for identity in ({}, {"x_tq_worker_instance": "a"}):
            worker = queue.register(f"worker {identity}", 1, **identity)
            task = queue.submit()
            queue.ping(worker, **identity)
            named = {**identity, "x_tq_worker_id": worker} if identity else {}
            queue.path(task, "CR", **named)
            wait_until(lambda task=task: queue.status(task) == "P", "evicted")  # type: ignore[misc]
            if not identity:
                # Who does not say so is known by the connection.
                assert code(lambda task=task: queue.update(task, "F")) is ABORTED  # type: ignore[misc]
            assert queue.update(task, "S", **named)
            assert queue.status(task) == "S"


def test_21_cancel(queue: Queue) -> None:
    worker = queue.register("w", 1)
    running = queue.submit()
    waiting = queue.submit()
    assert queue.ping(worker) == [(running, "A")]
    queue.path(running, "CR")
    queue.update(waiting, "X")
    queue.update(running, "X")
    assert queue.ping(worker) == [(running, "X")]
    assert queue.ping(worker) == [(running, "X")]
    identity = {"x_tq_worker_id": worker, "x_tq_attempt": 1}
    assert queue.update(running, "X", **identity)
    assert queue.ping(worker) == []
    assert queue.statuses() == {running: "X", waiting: "X"}


def test_21_our_worker_ends_what_is_cancelled(tmp_path: Path) -> None:
    with serving(tmp_path) as queue, agent(queue.address, tmp_path / "state"):
        task = queue.submit("echo begun; sleep 7661 & sleep 7661")
        assert next(queue.follow(task)).log_text == "begun"
        queue.update(task, "X")
        wait_until(lambda: not marked("7661"), "ended")
        following = queue.submit("true")
        wait_until(lambda: queue.status(following) == "S", "its slot is free")
        assert queue.status(task) == "X"


def test_22_hold(queue: Queue) -> None:
    task = queue.submit()
    queue.update(task, "Z")
    worker = queue.register("w", 1)
    assert queue.ping(worker) == []
    queue.update(task, "P")
    assert queue.ping(worker) == [(task, "A")]
    # Taken from its worker before it was begun.
    queue.update(task, "Z")
    assert code(lambda: queue.update(task, "C")) is PRECONDITION


def test_23_ten_thousand_lines(served: Queue) -> None:
    task = served.submit("x", "nobody runs this")
    kinds = ("O", "E", "stdout", "stderr", "o", "e", "out", "err")
    sent = [(task, kinds[number % 8], f"line {number} é") for number in range(10_000)]
    assert served.send(sent)
    served.update(task, "S")
    received = [(entry.task_id, entry.log_type, entry.log_text) for entry in served.follow(task)]
    assert received == sent
    rest = [entry.log_text for entry in served.follow(task, x_tq_log_start=9_990)]
    assert rest == [text for _, _, text in sent[9_990:]]


def test_23_lines_of_one_entry(served: Queue) -> None:
    task = served.submit("x", "nobody runs this")
    assert served.send([(task, "O", "a\nb\r\n\nc"), (task, "E", ""), (task, "O", "d\n"), (task, "O", "\n")])
    assert served.send([])
    served.update(task, "X")
    assert [text for _, text in served.output(task)] == ["a", "b\r", "", "c", "", "d", ""]


def test_24_bad_log_types(tmp_path: Path) -> None:
    with serving(tmp_path) as queue:
        task = queue.submit()
        for bad in ("../x", "", "O\0", "STDOUT", "stdout "):
            assert code(lambda bad=bad: queue.send([(task, bad, "text")])) is INVALID  # type: ignore[misc]
        assert code(lambda: queue.send([(task, "O", "a\0b")])) is INVALID
        assert code(lambda: queue.send([(task, "O", "x" * ((1 << 20) + 1))])) is INVALID
        assert code(lambda: queue.send([(4_000_000_000, "O", "x")])) is NOT_FOUND
        assert code(lambda: queue.send([(0, "O", "x")])) is INVALID
    files = [path.relative_to(tmp_path).parts[:2] for path in tmp_path.rglob("*") if path.is_file()]
    assert all(parts[0] == "data" and parts[1].startswith("store.db") for parts in files), files


def test_25_stream_that_is_cut(served: Queue) -> None:
    task = served.submit("x", "nobody runs this")
    sent_all = threading.Event()

    def entries() -> Iterator[Any]:
        for number in range(100):
            yield CLASSES["TaskLog"](task_id=task, log_type="O", log_text=str(number))
        sent_all.wait(60)

    call = served.stub._calls["SendTaskLogs"].future(entries(), timeout=60)
    wait_until(lambda: len(served.output(task)) == 100, "all that was sent")
    call.cancel()
    sent_all.set()
    assert [text for _, text in served.output(task)] == [str(number) for number in range(100)]
    assert served.status(task) == "P"
    served.update(task, "X")


def test_25_numbered_entries_are_kept_once(served: Queue) -> None:
    task = served.submit("x", "nobody runs this")
    lines = [(task, "O", f"{number}\nmore") for number in range(20)]
    assert served.send(lines[:12], x_tq_log_sequence=0)
    assert served.send(lines[5:], x_tq_log_sequence=10)
    # Another cut of the same lines.
    assert served.send([(task, "O", "more\n18\nmore\n"), (task, "O", "19\n")], x_tq_log_sequence=35)
    served.update(task, "X")
    assert [text for _, text in served.output(task)] == [text for n in range(20) for text in (str(n), "more")]


def test_26_following(served: Queue) -> None:
    task = served.submit("x", "nobody runs this")
    stream = served.follow(task)
    pipe: list[Any] = []
    more = threading.Condition()

    def entries() -> Iterator[Any]:
        while True:
            with more:
                more.wait_for(lambda: pipe, 60)
                entry = pipe.pop(0)
            if entry is None:
                return
            yield entry

    ending = served.stub._calls["SendTaskLogs"].future(entries(), timeout=60)
    for number in range(3):
        with more:
            pipe.append(CLASSES["TaskLog"](task_id=task, log_type="O", log_text=str(number)))
            more.notify()
        assert next(stream).log_text == str(number)
    served.update(task, "S")
    with more:
        pipe.append(CLASSES["TaskLog"](task_id=task, log_type="E", log_text="late"))
        pipe.append(None)
        more.notify()
    assert [entry.log_text for entry in stream] == ["late"]
    assert ending.result().success


def test_26_a_sender_that_never_ends_holds_nobody_for_long(served: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.commands.log_streams.LATE_S", 1.0)
    task = served.submit("x", "nobody runs this")
    goes_on = threading.Event()

    def entries() -> Iterator[Any]:
        yield CLASSES["TaskLog"](task_id=task, log_type="O", log_text="first")
        goes_on.wait(60)

    call = served.stub._calls["SendTaskLogs"].future(entries(), timeout=60)
    stream = served.follow(task)
    assert next(stream).log_text == "first"
    served.update(task, "S")
    assert list(stream) == []
    goes_on.set()
    assert call.result().success


def test_27_followers_and_one_that_does_not_read(tmp_path: Path) -> None:
    with serving(tmp_path) as queue:
        task = queue.submit()
        lazy = queue.follow(task)
        with concurrent.futures.ThreadPoolExecutor(9) as pool:
            others = [pool.submit(lambda: sum(len(e.log_text) for e in queue.follow(task))) for _ in range(9)]
            for _ in range(4):
                queue.send((task, "O", "x" * 65536) for _ in range(40))
            queue.update(task, "S")
            assert {other.result() for other in others} == {160 * 65536}
        # What it has not read is on disk, not in memory; it is there when it reads at last.
        assert sum(len(entry.log_text) for entry in lazy) == 160 * 65536


def test_27_what_a_follower_does_not_read_is_not_in_memory(tmp_path: Path) -> None:
    def memory(pid: int) -> int:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    with start_server(tmp_path, "--services", "command") as server, connect(server.address) as queue:
        task = queue.submit()
        lazy = [queue.follow(task) for _ in range(5)]
        queue.send((task, "O", "x" * 65536) for _ in range(160))
        before = memory(server.pid)
        for _ in range(4):
            queue.send((task, "O", "x" * 65536) for _ in range(320))
        # That were 80 MiB, five times.
        assert memory(server.pid) - before < 24 << 20
        for call in lazy:
            call.cancel()


def test_28_logs_after_the_end(served: Queue) -> None:
    task = served.submit("x", "nobody runs this")
    served.update(task, "S")
    assert served.send([(task, "O", "late")])
    assert [entry.log_text for entry in served.follow(task)] == ["late"]


def test_29_nothing_to_follow(served: Queue) -> None:
    assert code(lambda: list(served.follow(4_000_000_000))) is NOT_FOUND
    assert code(lambda: list(served.follow(0))) is INVALID
    task = served.submit("x", "nobody runs this")
    served.update(task, "F")
    assert list(served.follow(task)) == []


def test_30_and_32_local_workers(tmp_path: Path) -> None:
    # A task may lose each of the workers in turn.
    with serving(tmp_path, command_max_attempts=10) as queue:
        assert queue.create_workers("local", 0) == []
        assert code(lambda: queue.create_workers("nowhere", 3)) is NOT_FOUND
        assert queue.workers() == []
        workers = queue.create_workers("local", 3)
        try:
            assert [(number, name) for number, name, _ in queue.workers()] == [
                (number, f"tr-worker{number}") for number in workers
            ]
            tasks = [queue.submit("sleep 60") for _ in workers]
            wait_until(lambda: len(queue.tasks("R")) == 3, "one runs on each")
            for task in tasks:
                queue.update(task, "X")
            running = queue.submit("sleep 7662")
            wait_until(lambda: queue.status(running) == "R", "running")
            for worker in workers:
                assert queue.delete_worker(worker)
            assert queue.workers() == []
            wait_until(lambda: queue.status(running) == "P", "back in the queue")
            wait_until(lambda: not marked("7662") and not marked(str(tmp_path / "data" / "workers")), "gone", 30)
            for worker in workers:
                assert code(lambda worker=worker: queue.ping(worker)) is NOT_FOUND  # type: ignore[misc]
                assert queue.delete_worker(worker)
        finally:
            for worker in workers:
                queue.delete_worker(worker)


def test_30_local_workers_go_on_with_the_next_server(tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    with start_server(tmp_path, "--services", "command", listen=address) as server, connect(address) as queue:
        (worker,) = queue.create_workers("local")
        task = queue.submit("echo begun; sleep 3; echo done")
        assert next(queue.follow(task)).log_text == "begun"
        server.process.kill()
        server.process.wait()
    with start_server(tmp_path, "--services", "command", listen=address), connect(address) as queue:
        try:
            assert [entry.log_text for entry in queue.follow(task)] == ["begun", "done"]
            assert queue.status(task) == "S"
        finally:
            queue.delete_worker(worker)
            wait_until(lambda: not marked(str(tmp_path / "data" / "workers")), "gone")


def test_31_all_workers_or_none(tmp_path: Path) -> None:
    with fake_provider.installed(), serving(tmp_path, command_providers=("fake",)) as queue:
        (first,) = queue.create_workers("fake")
        # The second of the next two would be called like this one.
        taken = f"tr-worker{first + 3}"
        assert queue.register(taken) == first + 1
        before = queue.workers()
        assert code(lambda: queue.create_workers("fake", 2)) is grpc.StatusCode.ALREADY_EXISTS
        assert queue.workers() == before
        wait_until(lambda: len(FakeProvider.last.asked) == 1, "one worker is made, no other")


def test_31_all_local_workers_or_none(queue: Queue, tmp_path: Path) -> None:
    # The second of the next two would be called like this one.
    assert queue.register("tr-worker3") == 1
    before = queue.workers()
    assert code(lambda: queue.create_workers("local", 2)) is grpc.StatusCode.ALREADY_EXISTS
    assert queue.workers() == before
    workers = queue.create_workers("local", 1)
    try:
        wait_until(lambda: marked(str(tmp_path / "data" / "workers")), "one is made")
        assert [path.name for path in (tmp_path / "data" / "workers").iterdir()] == [f"tr-worker{workers[0]}"]
    finally:
        queue.delete_worker(workers[0])
        wait_until(lambda: not marked(str(tmp_path / "data" / "workers")), "gone")


def test_32_permanent_worker_that_lives(queue: Queue) -> None:
    worker = queue.register("permanent")
    assert code(lambda: queue.delete_worker(worker)) is PRECONDITION
    assert queue.ping(worker) == []


def test_33_server_killed_in_the_middle(tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    script = Path(__file__).with_name("independent_worker.py")
    ran = tmp_path / "ran"
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(start_server(tmp_path, "--services", "command", listen=address))
        with connect(address) as queue:
            tasks = [queue.submit(f"echo {n} >> {ran}; sleep 0.2; echo done {n}") for n in range(20)]
            worker = stack.enter_context(
                subprocess.Popen([sys.executable, str(script), address, "w", "3", "0.2"])
            )
            stack.callback(worker.kill)
            wait_until(lambda: len(queue.tasks("S")) >= 3, "some are done")
        server.process.kill()
        server.process.wait()
        stack.enter_context(start_server(tmp_path, "--services", "command", listen=address))
        with connect(address) as queue:
            assert [task.task_id for task in queue.tasks()] == tasks
            wait_until(lambda: len(queue.tasks("S")) == 20, "all are done")
        lines = ran.read_text().split()
        assert sorted(set(map(int, lines))) == list(range(20))
        assert len(lines) == 20


def test_34_bare_commands(tmp_path: Path) -> None:
    with serving(tmp_path) as queue, agent(queue.address, tmp_path / "state"):
        failing = queue.submit("exit 3")
        assert [(entry.log_type, entry.log_text) for entry in queue.follow(failing)] == [("E", "exit status 3")]
        assert queue.status(failing) == "F"
        strange = queue.submit(r"echo é; printf '\377\n'")
        assert [entry.log_text for entry in queue.follow(strange)] == ["é", "\ufffd"]
        long = queue.submit("head -c 1000000 /dev/zero | tr '\\0' x")
        pieces = [entry.log_text for entry in queue.follow(long)]
        assert len(pieces) > 1 and "".join(pieces) == "x" * 1_000_000


def test_35_independent_worker_and_plain_texts(queue: Queue, capsys: pytest.CaptureFixture[str]) -> None:
    def shell(*words: str) -> str:
        capsys.readouterr()
        assert main([*words, "--plain", "--server", f"grpc://{queue.address}"]) == 0
        return capsys.readouterr().out

    good, bad = "echo one; echo two >&2; sleep 0.2", "exit 1"
    assert shell("command", "submit", good, "--container", "bare") == "✅ Task created with ID: 1\n"
    assert shell("command", "submit", bad) == "✅ Task created with ID: 2\n"
    assert shell("command", "list", "--status", "P") == (
        f"📋 Task List:\n🆔 ID: 1 | Command: {good} | Container: bare | Status: P\n"
        f"🆔 ID: 2 | Command: {bad} | Container: bare | Status: P\n"
    )
    script = Path(__file__).with_name("independent_worker.py")
    with subprocess.Popen([sys.executable, str(script), queue.address, "worker-1", "2", "0.2"]) as worker:
        try:
            wait_until(lambda: queue.statuses() == {1: "S", 2: "F"}, "both have ended")
            assert shell("workers", "list") == "👷 Worker List:\n🔹 ID: 1 | Name: worker-1 | Concurrency: 2\n"
        finally:
            worker.kill()
    assert shell("command", "list", "--status", "S").splitlines()[1:] == [
        f"🆔 ID: 1 | Command: {good} | Container: bare | Status: S"
    ]
    heading, *lines = shell("command", "logs", "1").splitlines()
    assert heading == "📜 Logs for Task 1:" and sorted(lines) == ["[stderr] two", "[stdout] one"]


def test_36_tokens(tmp_path: Path) -> None:
    _, user = tokens.issue(tmp_path / "tokens", "user")
    _, worker = tokens.issue(tmp_path / "tokens", "worker")
    with runtime.Server(services=("command",), data_dir=tmp_path / "data", token_file=tmp_path / "tokens") as server:
        with connect(server.address) as nobody:
            unauthenticated = grpc.StatusCode.UNAUTHENTICATED
            assert code(lambda: nobody.submit()) is unauthenticated
            assert code(lambda: nobody.send([(1, "O", "x")])) is unauthenticated
            assert code(lambda: list(nobody.follow(1))) is unauthenticated
        with connect(server.address, user) as queue, connect(server.address, worker) as other:
            task = queue.submit()
            number = other.register("w")
            assert other.ping(number) == [(task, "A")]
            other.path(task, "C")
            other.send([(task, "O", "x")])
            other.path(task, "S")
            denied = grpc.StatusCode.PERMISSION_DENIED
            for call in (other.submit, other.tasks, other.workers, lambda: list(other.follow(task)),
                         other.create_workers, lambda: other.delete_worker(number)):
                assert code(call) is denied


def test_37_one_server_for_a_store(tmp_path: Path) -> None:
    with serving(tmp_path) as queue:
        task = queue.submit()
        with pytest.raises(FailedPrecondition, match="in use by another server"):
            runtime.Server(services=("command",), data_dir=tmp_path / "data")
        done = subprocess.run(
            serve_command("--listen", "127.0.0.1:0", "--services", "command", "--data-dir", str(tmp_path / "data")),
            capture_output=True, text=True, timeout=60,
        )
        assert done.returncode == 1 and "in use by another server" in done.stderr
        assert queue.statuses() == {task: "P"}
    with contextlib.closing(sqlite3.connect(tmp_path / "data" / "store.db")) as connection:
        assert connection.execute("SELECT number, status FROM commands").fetchall() == [(task, "P")]
