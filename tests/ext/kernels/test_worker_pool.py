"""The pool of helper threads behind large kernels."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from runtime._ext import worker_pool
from runtime.step.runner import StepRunner  # noqa: F401  (scripts below take it from here)
from tests.ext.kernels.pairs import Pair, handle, variable
from tests.leaks import native_threads


def until(condition, seconds=10.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.01)


@pytest.fixture
def three_workers():
    before = worker_pool.workers()
    worker_pool.set_workers(3)
    yield
    worker_pool.set_workers(before)


def large_kernel(size=1 << 20):
    """Return a kernel that is worth sharing, as a function, and what it adds to."""
    item = variable(np.zeros(size, "f4"))
    pair = Pair("AssignAddVariableOp", dtype=np.dtype("f4"))
    ones = np.ones(size, "f4")
    return lambda: pair.compiled(handle(item), ones), item


def test_helpers_start_with_the_first_large_kernel_and_stop(three_workers):
    add, item = large_kernel()
    small, _ = large_kernel(100)
    small()
    assert worker_pool.running_helpers() == 0
    before = native_threads()
    for _ in range(3):
        add()
    assert worker_pool.running_helpers() == 2
    worker_pool.stop()
    assert worker_pool.running_helpers() == 0
    until(lambda: native_threads() <= before)
    add()
    assert worker_pool.running_helpers() == 2
    np.testing.assert_array_equal(item.value, np.full(1 << 20, 4, "f4"))


def test_one_worker_means_no_helpers():
    before = worker_pool.workers()
    try:
        worker_pool.set_workers(1)
        add, item = large_kernel()
        add()
        assert worker_pool.running_helpers() == 0
        np.testing.assert_array_equal(item.value, np.ones(1 << 20, "f4"))
    finally:
        worker_pool.set_workers(before)


@pytest.mark.parametrize("count", [0, -1, 65])
def test_wrong_numbers_of_workers(count):
    with pytest.raises(ValueError, match=str(count)):
        worker_pool.set_workers(count)


def test_many_callers_at_once(three_workers):
    kernels = [large_kernel(1 << 18) for _ in range(6)]
    threads = [threading.Thread(target=lambda add=add: [add() for _ in range(40)]) for add, _ in kernels]
    for thread in threads:
        thread.start()
    for _ in range(5):  # ends helpers in the middle of it
        worker_pool.stop()
    for thread in threads:
        thread.join(60)
    for _, item in kernels:
        np.testing.assert_array_equal(item.value, np.full(1 << 18, 40, "f4"))


def test_thousand_starts_and_stops_leave_no_thread(three_workers):
    add, _ = large_kernel(1 << 17)
    before = native_threads()
    for _ in range(1000):
        add()
        worker_pool.stop()
    until(lambda: native_threads() <= before)


def test_helpers_that_were_dismissed_help_again(three_workers):
    """Whether they were looking out or asleep when the step ended; tasks count once, whoever runs them."""
    add, item = large_kernel()
    add()
    begun = worker_pool.tasks_begun()
    add()
    tasks = worker_pool.tasks_begun() - begun
    assert tasks > 1
    begun = worker_pool.tasks_begun()
    for turn in range(50):
        add()
        worker_pool.dismiss()
        if turn % 10 == 0:
            time.sleep(0.001)
    assert worker_pool.tasks_begun() - begun == 50 * tasks
    assert worker_pool.running_helpers() == 2
    np.testing.assert_array_equal(item.value, np.full(1 << 20, 52, "f4"))


def test_a_forked_child_has_helpers_of_its_own(three_workers):
    add, item = large_kernel()
    add()
    assert worker_pool.running_helpers() == 2
    child = os.fork()
    if child == 0:
        status = 1
        try:
            if worker_pool.running_helpers() == 0:
                add()
                if worker_pool.running_helpers() == 2 and (item.value == 2).all():
                    worker_pool.stop()
                    status = 0
        finally:
            os._exit(status)
    deadline = time.monotonic() + 30
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            break
        if time.monotonic() > deadline:
            os.kill(child, 9)
            os.waitpid(child, 0)
            pytest.fail("the child did not end")
        time.sleep(0.01)
    assert os.waitstatus_to_exitcode(status) == 0
    add()
    np.testing.assert_array_equal(item.value, np.full(1 << 20, 2, "f4"))


def run_python(code, **env):
    return subprocess.run([sys.executable, "-c", code], env={**os.environ, **env}, capture_output=True, text=True,
                          timeout=60, check=False)


def test_the_last_runner_ends_the_helpers():
    code = ("from tests.ext.kernels.test_worker_pool import *\n"
            "worker_pool.set_workers(3)\nadd, _ = large_kernel()\nfirst, second = StepRunner(), StepRunner()\nadd()\n"
            "for runner in (first, first, second):\n    runner.close()\n    print(worker_pool.running_helpers())\n"
            "worker_pool.release()")
    done = run_python(code)
    assert done.stdout.split() == ["2", "2", "0"], done.stderr
    assert "RuntimeError: the worker pool is released more often than it was retained" in done.stderr


def test_the_environment_sets_the_number():
    code = "from runtime._ext import worker_pool; print(worker_pool.workers())"
    assert run_python(code, TENSOR_RUNTIME_KERNEL_THREADS="5").stdout.strip() == "5"
    failed = run_python(code, TENSOR_RUNTIME_KERNEL_THREADS="many")
    assert "TENSOR_RUNTIME_KERNEL_THREADS is 'many'" in failed.stderr


def test_the_interpreter_ends_while_helpers_sleep():
    code = ("from tests.ext.kernels.test_worker_pool import *\n"
            "worker_pool.set_workers(4)\nadd, _ = large_kernel()\nadd()\nprint(worker_pool.running_helpers())")
    done = run_python(code)
    assert (done.returncode, done.stdout.strip()) == (0, "3"), done.stderr
