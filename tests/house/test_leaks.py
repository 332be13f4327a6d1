"""The leak checks must see what they are for."""

from __future__ import annotations

import asyncio
import os
import threading

import pytest

from tests.leaks import leak_check, run_async


def test_leak_check_passes_when_nothing_is_left() -> None:
    with leak_check():
        thread = threading.Thread(target=lambda: None)
        thread.start()
        os.close(os.open(os.devnull, os.O_RDONLY))
        thread.join(5)


def test_leak_check_names_a_thread_left_behind() -> None:
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait, args=(60,), name="forgotten")
    try:
        with pytest.raises(AssertionError, match="forgotten"), leak_check(settle_s=0.1):
            thread.start()
    finally:
        stop.set()
        thread.join(5)


def test_leak_check_names_a_descriptor_left_behind() -> None:
    descriptor = -1
    try:
        with pytest.raises(AssertionError, match=os.devnull), leak_check(settle_s=0.1):
            descriptor = os.open(os.devnull, os.O_RDONLY)
    finally:
        os.close(descriptor)


def test_run_async_returns_the_result_and_waits_for_cancelled_tasks() -> None:
    async def work() -> int:
        task = asyncio.create_task(asyncio.sleep(60))
        await asyncio.sleep(0)
        task.cancel()
        return 7

    assert run_async(work) == 7


def test_run_async_fails_on_a_task_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.leaks.SETTLE_S", 0.05)
    tasks = []

    async def work() -> None:
        tasks.append(asyncio.create_task(asyncio.sleep(60)))

    with pytest.raises(AssertionError, match="tasks left behind"):
        run_async(work)


def test_run_async_is_bounded_in_time() -> None:
    with pytest.raises(TimeoutError):
        run_async(lambda: asyncio.sleep(60), timeout_s=0.05)
