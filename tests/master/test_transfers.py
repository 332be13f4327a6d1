"""The logs of transfers of a traced step's tasks: on while a step is traced, off behind the last one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from runtime import wire
from runtime._ext.errors import Unavailable
from runtime.master.transfers import OtherTransfers, OwnTransfers
from runtime.worker.rpc_log import RpcLog

KEY = "/job:a/replica:0/task:0/device:CPU:0;0000000000000001;/job:b/replica:0/task:0/device:CPU:0;edge_1_x;0:0"


class Calls:
    """Stands for connections: keeps every call until it is answered."""

    def __init__(self) -> None:
        self.open: list[tuple[Any, str, Callable[..., None]]] = []

    def begin(self, address: str, task: str, method: str, request: bytes, what: str, done: Callable[..., None]
              ) -> Callable[[], None]:
        assert (address, task, method) == ("there:1", "/job:b/replica:0/task:0", "Logging")
        self.open.append((wire.LoggingRequest.FromString(request), what, done))
        return lambda: None

    def answer(self, answer: bytes | None = b"", error: BaseException | None = None) -> Any:
        """Answer the oldest call and return what it asked."""
        request, _, done = self.open.pop(0)
        done(answer, error)
        return request


@pytest.fixture
def calls() -> Calls:
    return Calls()


@pytest.fixture
def other(calls: Calls) -> OtherTransfers:
    return OtherTransfers(calls, "/job:b/replica:0/task:0", "there:1")  # type: ignore[arg-type]


def test_the_log_of_another_task_is_on_until_the_last_step_has_ended(calls: Calls, other: OtherTransfers) -> None:
    begun: list[int] = []
    for number in range(2):
        other.begin(lambda number=number: begun.append(number))  # type: ignore[misc]
        assert len(begun) == number  # not before it is on
        assert calls.answer().enable_rpc_logging
    assert begun == [0, 1]
    found: list[Any] = []
    answer = wire.LoggingResponse()
    for step_id in (8, 9):
        answer.step.add(step_id=step_id).step_stats.dev_stats.add(device=f"device of {step_id}")
    other.end(8, found.append)
    request = calls.answer(answer.SerializeToString())
    assert (list(request.fetch_step_id), request.disable_rpc_logging) == ([8], False)
    other.end(9, found.append)
    request = calls.answer()
    assert (list(request.fetch_step_id), request.disable_rpc_logging) == ([9], True)
    (stats, nothing) = found
    assert [device.device for device in stats.dev_stats] == ["device of 8"]
    assert nothing is None


def test_a_task_that_has_no_log_runs_its_steps_all_the_same(calls: Calls, other: OtherTransfers) -> None:
    begun: list[int] = []
    other.begin(lambda: begun.append(1))
    calls.answer(None, Unavailable("gone"))
    assert begun == [1]
    found: list[Any] = []
    other.end(1, found.append)
    calls.answer(None, Unavailable("gone"))
    other.end(2, found.append)
    calls.answer(b"\xff\xff")  # no message
    assert found == [None, None]


def test_the_own_log_counts_steps_beside_the_switch_of_others() -> None:
    log = RpcLog()
    own = OwnTransfers(log)
    begun: list[int] = []
    own.begin(lambda: begun.append(1))
    own.begin(lambda: begun.append(2))
    assert begun == [1, 2]
    log.is_enabled = False  # another master has switched it off
    log.received(5, KEY, 3 << 20, 1_000_000, 3_000_000, "shared memory")
    found: list[Any] = []
    own.end(5, found.append)
    log.received(6, KEY, 1, 1, 2, "message")
    own.end(6, found.append)
    log.received(7, KEY, 1, 1, 2, "message")
    assert log.fetch([7]) == [(7, [])]
    (device,) = found[0].dev_stats
    (entry,) = device.node_stats
    assert device.device == "/job:b/replica:0/task:0/device:CPU:0"
    assert entry.timeline_label == ("[3.0MB] [12.6Mb/s] edge_1_x from /job:a/replica:0/task:0/device:CPU:0 to "
                                    "/job:b/replica:0/task:0/device:CPU:0 by shared memory")
    assert found[1] is not None
