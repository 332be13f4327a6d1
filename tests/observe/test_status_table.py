"""The status as text: what stands where, and what is left out."""

from __future__ import annotations

import pytest

from runtime import wire
from runtime._ext.executor import StepContext
from runtime.observe import status
from runtime.observe.status import (
    Call,
    RoadStatus,
    StepStatus,
    TaskStatus,
    Wait,
    WorkerSessionStatus,
    oldest_steps,
)
from runtime.observe.status_service import task_message
from runtime.observe.status_table import aligned, duration, size, status_table

KEY = "/job:ps/replica:0/task:0/device:CPU:0;00000000000000ab;/job:w/replica:0/task:3/device:GPU:1;edge_7_x;0:2"


@pytest.mark.parametrize("seconds, text", [
    (0.0, "0.0s"), (9.94, "9.9s"), (59.9, "59s"), (60, "1m00s"), (3599, "59m59s"), (7261, "2h01m"), (180000, "2d02h"),
])
def test_durations_are_short(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize("nbytes, text", [
    (0, "0 B"), (999, "999 B"), (1024, "1 KiB"), (1_050_000, "1 MiB"), (300 << 20, "300 MiB"), (5 << 40, "5 TiB"),
])
def test_sizes_have_three_digits(nbytes: int, text: str) -> None:
    assert size(nbytes) == text


def test_columns_stand_below_each_other() -> None:
    assert aligned([("A", "LONG", "B"), ("xyz", "1", "")]) == "A    LONG  B\nxyz  1"


def test_a_table_says_what_it_leaves_out() -> None:
    step = StepStatus(7, 3.0, graph_handle="0000000000000001", is_cancelled=True, held_bytes=2048)
    waiting = StepStatus(8, 2.0, fetches=("a:0", "b:0", "c:0", "d:0"), waits=(
        Wait(f"tensor {KEY} from /job:ps/replica:0/task:0", 1.5), Wait("a lock", 0.5)))
    task = TaskStatus(
        "/job:w/replica:0/task:3", "h:1", 4, "1", 65.0, (), 5 << 20, 0,
        worker_sessions=(WorkerSessionStatus("s", 1.0, "", False, (), 12, (step, waiting)),),
        calls=(Call("t", "a:1", f"the tensor {KEY}", 9.0, 4.0), Call("t", "a:1", "step 8", 1.0, 0.5)), num_calls=5,
        wanted=(Wait(f"tensor {KEY} of step 8", 2.0),), num_wanted=2,
        roads=(RoadStatus("received", "shared memory", 3, 64 << 20, 0.25, 1),),
    )
    lost = wire.runtime_v1.TaskStatus(task="/job:w/replica:0/task:4", address="h:2", error="no answer within 3 s")
    told = wire.runtime_v1.StatusResponse(task=[task_message(task), lost])
    short = "edge_7_x (ps/0 CPU:0 to w/3 GPU:1)"
    assert [line.split() for line in status_table(told).splitlines() if line] == [line.split() for line in (
        "TASK ADDRESS PID UP RSS ARRAYS SESSIONS STEPS STATE",
        "/job:w/replica:0/task:3 h:1 4 1m05s 5 MiB 0 B 0 12 serving",
        "/job:w/replica:0/task:4 h:2 - - - - - - no answer within 3 s",
        "/job:w/replica:0/task:3",
        "worker sessions:",
        "SESSION AGE MASTER STATE GRAPHS NODES STEPS",
        "s 1.0s - shared 0 0 12",
        "steps:",
        "STEP SESSION AGE ARRAYS RUNS WAITS FOR",
        "7 s 3.0s 2 KiB graph 1 (being cancelled)",
        f"8 s 2.0s 0 B a:0, b:0, c:0, ... tensor {short} from /job:ps/replica:0/task:0, for 1.5s",
        "a lock, for 0.5s",
        "and 10 younger",
        "calls to other tasks:",
        "TASK ADDRESS AGE AWAITED STATE",
        f"t a:1 9.0s the tensor {short} silent for 4.0s",
        "t a:1 1.0s step 8 open",
        "and 3 younger",
        "tensors that others wait for here:",
        "AGE TENSOR",
        f"2.0s tensor {short} of step 8",
        "and 1 younger",
        "tensors moved:",
        "WAY ROAD TENSORS BYTES TIME COPIES",
        "received shared memory 3 64 MiB 0.2s 1",
    )]


def test_the_oldest_steps_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status, "MAX_STEPS", 2)
    steps = [StepContext(number, None) for number in range(4)]
    assert [found.step_id for found in oldest_steps((step, "") for step in reversed(steps))] == [0, 1]


def test_a_wait_is_told_until_it_is_over() -> None:
    step = StepContext(1, None)
    step.on_cancel(lambda: None)
    token = step.on_cancel(lambda: None, lambda: "a friend")
    (wait,) = status.step_status(step).waits
    assert wait.what == "a friend" and 0 <= wait.seconds < 5
    step.forget(token)
    assert status.step_status(step).waits == ()
    step.on_cancel(lambda: None, lambda: str(1 // 0))
    assert status.step_status(step).waits == (), "one that fails is logged, and keeps nothing else away"
    step.close()
    assert step.waits() == []


def test_a_cancelled_step_calls_back_whoever_said_what_it_waits_for() -> None:
    step, called = StepContext(1, None), []
    step.on_cancel(lambda: called.append("plain"))
    step.on_cancel(lambda: called.append("waiting"), lambda: "a friend")
    step.cancel(RuntimeError("over"))
    assert called == ["plain", "waiting"]
    assert step.on_cancel(lambda: called.append("late"), lambda: "nothing") == 0
    assert called[-1] == "late"
