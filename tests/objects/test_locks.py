"""Locks that say whether a process may still be writing: of descriptions of files, gone with the last descriptor."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.objects.locks import Locks, is_locked, lock, unlock

AT = 1 << 62


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    descriptor = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    yield descriptor
    os.close(descriptor)


def again(file: int) -> int:
    """Return another description of a file."""
    return os.open(f"/proc/self/fd/{file}", os.O_RDWR)


def test_a_lock_is_seen_by_other_descriptions_and_excludes_them(file: int) -> None:
    other = again(file)
    assert not is_locked(file, AT)
    lock(other, AT)
    assert is_locked(file, AT) and not is_locked(other, AT)
    assert not is_locked(file, AT + 1) and not is_locked(file, 0, AT)
    assert is_locked(file, AT - 5, 10)
    with pytest.raises(OSError, match="temporarily unavailable"):
        lock(file, AT)
    lock(file, AT + 1)
    unlock(other, AT)
    assert not is_locked(file, AT)
    lock(other, AT)
    os.close(other)
    assert not is_locked(file, AT)
    assert os.fstat(file).st_size == 0


def test_a_lock_that_a_fork_has_too_goes_when_it_is_let_go(file: int) -> None:
    other = again(file)
    lock(other, AT)
    gate, child_gate = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(child_gate)
        os.read(gate, 1)  # until the parent has seen what it wants to see
        os._exit(0)
    os.close(gate)
    try:
        duplicate = os.dup(other)
        os.close(other)
        assert is_locked(file, AT)
        unlock(duplicate, AT)
        assert not is_locked(file, AT), "although the child has the description"
        os.close(duplicate)
    finally:
        os.close(child_gate)
        os.waitpid(pid, 0)


def test_a_frozen_process_keeps_its_lock_and_a_killed_one_does_not(file: int) -> None:
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        lock(again(file), AT)
        os.write(writer, b"x")
        signal.pause()
    assert os.read(reader, 1) == b"x"
    try:
        os.kill(pid, signal.SIGSTOP)
        assert is_locked(file, AT)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(reader)
        os.close(writer)
    deadline = time.monotonic() + 10
    while is_locked(file, AT):
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_each_life_hands_out_locks_where_nobody_of_a_life_before_holds_one(file: int) -> None:
    first, second, third = Locks(), Locks(), Locks()
    assert not first.begin(file)
    given = [first.next() for _ in range(3)]
    assert len(set(given)) == 3
    holder = again(file)
    lock(holder, given[1])
    assert not first.are_old_held(file), "its own is not an old one"
    assert second.begin(file) and second.are_old_held(file)
    newer = again(file)
    lock(newer, second.next())
    assert not first.are_old_held(holder) or first.are_old_held(file)
    assert third.begin(file)
    os.close(holder)
    assert not second.are_old_held(file)
    assert third.are_old_held(file), "one of a later life stands there still"
    os.close(newer)
    assert not third.are_old_held(file)
    assert not ({third.next() for _ in range(3)} & {*given, second.next()})
