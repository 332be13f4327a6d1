"""Buffers of a pool: who holds them, when they come back, what is kept and what the system gets again."""

from __future__ import annotations

import gc
import os
import threading
from pathlib import Path

import numpy as np
import pytest

from runtime._ext.buffer_pool import MIN_CAPACITY, Buffer, BufferPool, Memory, capacity_for
from runtime.errors import InvalidArgument, ResourceExhausted

MIB = 1 << 20


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("nbytes", [0, 1, MIN_CAPACITY, MIN_CAPACITY + 1, 100_000, MIB, 5 * MIB + 1, 100 * MIB])
def test_capacities_hold_what_is_asked_for_and_waste_little(nbytes: int) -> None:
    capacity = capacity_for(nbytes)
    assert capacity >= nbytes and capacity % 4096 == 0
    assert capacity_for(capacity) == capacity
    assert capacity <= max(MIN_CAPACITY, nbytes * 1.26 + 4096)


@pytest.mark.parametrize("nbytes", [-1, (1 << 60) + 1])
def test_impossible_sizes_are_refused(nbytes: int) -> None:
    with pytest.raises(InvalidArgument, match=f"a buffer of {nbytes} bytes cannot be had"):
        BufferPool(MIB).take(nbytes)


def test_a_buffer_comes_back_when_its_last_view_dies() -> None:
    pool = BufferPool(64 * MIB)
    buffer = pool.take(MIB)
    address = buffer.memory.address
    array = np.frombuffer(buffer, np.float32)
    array[:] = 1
    part = array.reshape(512, 512)[3:5].T
    other = np.from_dlpack(array)
    view = memoryview(part)
    del buffer, array, part
    assert pool.num_lent == 1
    del view
    assert pool.num_lent == 1
    del other
    gc.collect()
    assert (pool.num_lent, pool.lent_bytes, pool.idle_bytes) == (0, 0, capacity_for(MIB))
    again = pool.take(MIB - 10)
    assert again.memory.address == address and len(again) == MIB - 10
    assert (pool.num_made, pool.num_reused) == (1, 1)


def test_buffers_in_use_are_never_the_same_memory() -> None:
    pool = BufferPool(64 * MIB)
    arrays = [np.frombuffer(pool.take(MIB), np.uint8) for _ in range(5)]
    for value, array in enumerate(arrays):
        array[:] = value
    assert all((array == value).all() for value, array in enumerate(arrays))


def test_the_limit_counts_what_is_lent_and_idle_memory_makes_room() -> None:
    pool = BufferPool(4 * MIB)
    held = pool.take(2 * MIB)
    idle = pool.take(MIB)
    del idle
    with pytest.raises(ResourceExhausted, match=f"{capacity_for(3 * MIB)}|a buffer of {3 * MIB} bytes does not fit"):
        pool.take(3 * MIB)
    other = pool.take(2 * MIB)
    assert pool.idle_bytes == 0 and pool.num_trimmed == 1
    assert pool.lent_bytes == 4 * MIB
    del held, other
    assert pool.lent_bytes == 0 and pool.idle_bytes == 4 * MIB


def test_trimming_gives_memory_back_to_the_system() -> None:
    pool = BufferPool(256 * MIB)
    before = resident_bytes()
    buffer = pool.take(64 * MIB)
    assert resident_bytes() - before > 60 * MIB  # there before it is touched
    del buffer
    assert pool.trim(idle_s=60) == []
    assert resident_bytes() - before > 60 * MIB
    assert pool.trim() == [None]
    assert resident_bytes() - before < 16 * MIB
    assert pool.idle_bytes == 0


def test_a_failed_mapping_is_not_counted() -> None:
    def fail(capacity: int) -> Memory:
        raise ResourceExhausted("nothing there")

    pool = BufferPool(64 * MIB, fail)
    with pytest.raises(ResourceExhausted, match="nothing there"):
        pool.take(MIB)
    assert (pool.lent_bytes, pool.num_lent) == (0, 0)


def test_more_than_the_system_has_is_an_error() -> None:
    with pytest.raises(ResourceExhausted, match="no memory for"):
        Memory(1 << 60)


def test_threads_take_and_give_back() -> None:
    pool = BufferPool(256 * MIB)
    wrong: list[int] = []

    def work(number: int) -> None:
        for turn in range(200):
            array = np.frombuffer(pool.take(MIN_CAPACITY * (1 + turn % 3)), np.uint8)
            array[:: 4096] = number
            if not (array[:: 4096] == number).all():
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == [] and pool.num_lent == 0 and pool.lent_bytes == 0
    assert pool.num_made <= 12 and pool.num_reused == 800 - pool.num_made


def test_a_read_only_buffer_gives_no_writable_view() -> None:
    buffer = Buffer(Memory(4096), 100, is_writable=False)
    assert memoryview(buffer).readonly
    array = np.frombuffer(buffer, np.uint8)
    assert not array.flags.writeable
    with pytest.raises(ValueError):
        array.flags.writeable = True


def test_a_mapped_file_is_shared_and_closed_with_its_last_view() -> None:
    descriptor = os.memfd_create("test")
    os.ftruncate(descriptor, MIB)
    before = len(os.listdir("/proc/self/fd"))
    other = Memory(MIB, os.dup(descriptor), is_writable=False)
    mine = np.frombuffer(Buffer(Memory(MIB, descriptor, name="mine"), MIB), np.uint8)
    theirs = np.frombuffer(Buffer(other, MIB), np.uint8)
    mine[5] = 7
    assert theirs[5] == 7
    assert not theirs.flags.writeable
    del mine, theirs, other
    assert len(os.listdir("/proc/self/fd")) == before - 1


def test_release_is_called_once_and_its_faults_are_reported(capsys: pytest.CaptureFixture[str]) -> None:
    released: list[Memory] = []
    memory = Memory(4096)
    buffer = Buffer(memory, 10, release=released.append)
    view = memoryview(buffer)
    del buffer
    assert released == []
    view.release()
    del view
    assert released == [memory]


def test_a_buffer_larger_than_its_memory_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="4097 bytes does not fit in a memory of 4096"):
        Buffer(Memory(4096), 4097)
