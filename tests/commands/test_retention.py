"""Commands that have ended are kept for a while, with their output, and forgotten then."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

import runtime
from runtime.errors import NotFound
from tests.conformance.taskqueue.client import Queue, code, connect, serving, wait_until

KEPT_S = 0.6


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[Queue]:
    with serving(tmp_path, command_retention_s=KEPT_S) as queue:
        yield queue


def ids(queue: Queue) -> list[int]:
    return [task.task_id for task in queue.tasks()]


def output_files(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "data" / "command-logs").rglob("*.log"))


def test_what_has_ended_is_forgotten_and_nothing_else(queue: Queue, tmp_path: Path) -> None:
    succeeded, failed, cancelled, waits, held = (queue.submit() for _ in range(5))
    for task in (succeeded, waits):
        queue.send([(task, "O", "a line")])
    for task, status in ((succeeded, "S"), (failed, "F"), (cancelled, "X"), (held, "Z")):
        queue.update(task, status)
    assert len(ids(queue)) == 5
    wait_until(lambda: ids(queue) == [waits, held], "forgotten")
    assert output_files(tmp_path) == [f"{waits}.log"] and queue.output(waits) == [("O", "a line")]
    with contextlib.closing(sqlite3.connect(tmp_path / "data" / "store.db")) as connection:
        found = connection.execute("SELECT DISTINCT command FROM command_events ORDER BY 1").fetchall()
    assert found == [(waits,), (held,)]


def test_calls_for_what_is_forgotten_say_so(queue: Queue) -> None:
    first, second = queue.submit(), queue.submit()
    queue.update(first, "S")
    wait_until(lambda: ids(queue) == [second], "forgotten")
    calls: list[Any] = [lambda: queue.update(first, "P"), lambda: list(queue.follow(first)),
                        lambda: queue.send([(first, "O", "late")])]
    for call in calls:
        with pytest.raises(grpc.RpcError, match="not known any more: it ended longer ago than commands are kept"):
            call()
        assert code(call) is grpc.StatusCode.NOT_FOUND
    assert queue.submit() == second + 1
    with runtime.CommandClient(f"grpc://{queue.address}") as client:
        assert client.get(second).id == second
        with pytest.raises(NotFound, match=f"no command {first}"):
            client.get(first)
        assert [command.id for command in client.list(first=second + 1)] == [second + 1]


def test_one_that_is_queued_again_stays(queue: Queue) -> None:
    task = queue.submit()
    queue.update(task, "F")
    queue.update(task, "P")
    other = queue.submit()
    queue.update(other, "S")
    wait_until(lambda: ids(queue) == [task], "the other is forgotten")


def test_output_that_still_comes_keeps_its_command(queue: Queue, tmp_path: Path) -> None:
    task, other = queue.submit(), queue.submit()
    done = threading.Event()

    def entries() -> Iterator[tuple[int, str, str]]:
        yield task, "O", "begun"
        done.wait(60)
        yield task, "O", "end"

    with connect(queue.address) as sender:
        sending = threading.Thread(target=lambda: sender.send(entries(), timeout=60))
        sending.start()
        wait_until(lambda: queue.output(task), "begun")
        queue.update(task, "S")
        queue.update(other, "S")
        wait_until(lambda: other not in ids(queue), "the other is forgotten")
        assert ids(queue) == [task]
        done.set()
        sending.join()
    wait_until(lambda: ids(queue) == [], "forgotten")
    assert output_files(tmp_path) == []


def test_a_long_history_goes_in_pieces_also_with_the_next_server(tmp_path: Path) -> None:
    with serving(tmp_path) as queue:
        queue.submit()
        kept = ids(queue)
    with contextlib.closing(sqlite3.connect(tmp_path / "data" / "store.db")) as connection, connection:
        connection.executemany(
            "INSERT INTO commands (text, container, status, worker, attempt, created, modified, cause) "
            "VALUES ('true', 'bare', 'S', 0, 1, ?, ?, '')", [(number, number) for number in range(1000)]
        )
    with serving(tmp_path, command_retention_s=3600.0) as queue:
        wait_until(lambda: ids(queue) == kept, "forgotten")
    with serving(tmp_path, command_retention_s=0.0) as queue:
        queue.update(kept[0], "S")
        assert ids(queue) == kept
