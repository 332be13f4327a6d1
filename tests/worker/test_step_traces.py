"""Traces of a recording are kept for a while, and not for more steps than are told."""

from __future__ import annotations

import pytest

from runtime._ext.executor import StepTrace
from runtime.worker import step_traces
from runtime.worker.step_traces import StepTraces

DEVICE = "/job:worker/replica:0/task:0/device:CPU:0"


def test_traces_that_nobody_fetched_are_dropped_some_time_after_the_recording() -> None:
    traces = StepTraces()
    assert not traces.is_recording
    traces.record(60.0)
    assert traces.is_recording
    traces.add(1, StepTrace(), DEVICE)
    traces.drop_old(0.0)
    assert [step_id for step_id, _ in traces.fetch([1])] == [1]  # it still records
    traces.add(2, StepTrace(), DEVICE)
    traces.record(0.0)
    assert not traces.is_recording
    traces.drop_old(60.0)
    traces.add(3, StepTrace(), DEVICE)
    assert [step_id for step_id, _ in traces.fetch([3])] == [3]
    traces.drop_old(0.0)
    assert traces.fetch([2]) == []


def test_the_oldest_steps_go_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_traces, "_MAX_STEPS", 3)
    traces = StepTraces()
    for step_id in (1, 2, 1, 3, 4):
        traces.add(step_id, StepTrace(), DEVICE)
    found = dict(traces.fetch([1, 2, 3, 4]))
    assert set(found) == {2, 3, 4}
    (device,) = found[2].dev_stats
    assert device.device == DEVICE


def test_parts_of_one_step_are_told_together() -> None:
    traces = StepTraces()
    for _ in range(2):
        traces.add(1, StepTrace(), DEVICE)
    ((_, stats),) = traces.fetch([1, 1])
    assert [device.device for device in stats.dev_stats] == [DEVICE, DEVICE]
