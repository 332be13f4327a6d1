"""Arrays of steps whose memory is a shared segment: like any other to numpy, and handed over without a copy."""

from __future__ import annotations

import contextlib
import gc
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from runtime import transport, wire
from runtime._ext import shared_arrays
from runtime._ext.buffer_pool import BufferPool, Memory
from runtime._ext.running_step import MemoryBound
from runtime._ext.variable import Variable
from runtime._ext.worker_codec import encode_recv_tensor_response, scan_recv_tensor_response
from runtime.dtypes import DataType
from runtime.errors import InvalidArgument
from runtime.transport import handover, segments
from runtime.transport.borrower import num_borrowed
from runtime.transport.lender import lender
from runtime.transport.roads import Totals
from runtime.transport.segments import SHARED_BYTES
from tests.transport.test_shared_memory import MIB, program, until


@pytest.fixture(autouse=True)
def pool(monkeypatch: pytest.MonkeyPatch) -> Iterator[BufferPool]:
    """Segments of this test alone, which hold the large arrays of steps."""
    for number in list(lender()._waiting):
        lender().revoke(number)
    made = BufferPool(64 * MIB, segments._make_segment)
    monkeypatch.setattr(segments, "_pool", made)
    assert handover.hold_arrays()
    yield made
    shared_arrays.uninstall()
    for number in list(lender()._waiting):
        lender().revoke(number)
    gc.collect()
    assert made.num_lent == 0
    assert shared_arrays.num_blocks() == 0


@contextlib.contextmanager
def step() -> Iterator[None]:
    with MemoryBound(0):
        yield


def test_large_arrays_of_steps_lie_in_segments_and_others_do_not(pool: BufferPool) -> None:
    outside = np.empty(MIB, np.uint8)
    with step():
        large, small = np.empty(MIB, np.uint8), np.empty(SHARED_BYTES - 1, np.uint8)
        filled = np.ones((600, 600), np.float64)
    assert large.flags.owndata and large.flags.writeable
    assert segments.block_of(large) is not None and segments.block_of(filled) is not None
    assert segments.block_of(small) is None and segments.block_of(outside) is None
    assert pool.num_lent == shared_arrays.num_blocks() == 2
    del large
    assert pool.num_lent == shared_arrays.num_blocks() == 1
    with step():
        again = np.empty(MIB, np.uint8)  # outlives the step, and the handler
    assert pool.num_reused == 1
    again[...] = 5
    assert (filled == 1).all()


def test_zeros_are_zeros_in_memory_that_was_used_before(pool: BufferPool) -> None:
    with step():
        used = np.full(MIB, 7, np.uint8)
        del used
        zeros = np.zeros((2, MIB // 2), np.uint8)
    assert pool.num_reused == 1 and not zeros.any()


@pytest.mark.parametrize("count", [10, SHARED_BYTES, 3 * MIB])
@pytest.mark.parametrize("first", [10, MIB])
def test_arrays_that_change_their_size_keep_what_they_hold(first: int, count: int) -> None:
    expected = np.zeros(count, np.uint8)
    with step():
        array = np.arange(first, dtype=np.uint8)
        array.resize(count, refcheck=False)
    expected[:first] = np.arange(first, dtype=np.uint8)[:count]
    assert (array == expected).all()
    assert (segments.block_of(array) is not None) == (min(first, count) >= SHARED_BYTES)


def test_numpy_has_memory_when_the_pool_has_none(pool: BufferPool) -> None:
    with step():
        arrays = [np.full(16 * MIB, number, np.uint8) for number in range(6)]
    assert pool.num_lent == 4
    assert all((array == number).all() for number, array in enumerate(arrays))


def test_an_array_that_no_pool_can_hold_is_refused_as_by_numpy(pool: BufferPool) -> None:
    with step(), pytest.raises(MemoryError):
        np.empty(1 << 61, np.uint8)
    assert pool.num_lent == 0


def test_numpy_has_memory_when_the_pool_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(capacity: int) -> None:
        raise RuntimeError("not to be expected")

    told: list[Any] = []
    monkeypatch.setattr(segments, "_pool", BufferPool(64 * MIB, fails))
    monkeypatch.setattr(sys, "unraisablehook", lambda found: told.append(str(found.exc_value)))
    with step():
        array = np.full(MIB, 3, np.uint8)
    assert told == ["not to be expected"]
    assert segments.block_of(array) is None and (array == 3).all()


@pytest.mark.parametrize("make", [np.empty, np.zeros])
def test_the_bound_of_a_step_holds_whoever_takes_memory_while_a_segment_is_made(
        pool: BufferPool, monkeypatch: pytest.MonkeyPatch, make: Callable[..., np.ndarray]) -> None:
    kept: list[np.ndarray] = []

    def makes(capacity: int) -> Memory:
        if not kept:
            kept.append(np.empty(0))
            kept.append(np.empty(MIB, np.uint8))  # as another thread of the step would
        return segments._make_segment(capacity)

    made = BufferPool(64 * MIB, makes)
    monkeypatch.setattr(segments, "_pool", made)
    with MemoryBound(3 * MIB // 2) as bound:
        with pytest.raises(MemoryError):
            make(MIB, np.uint8)
        assert bound.held == MIB and bound.refused and made.num_lent == 1
        kept.clear()
        assert bound.held == made.num_lent == 0


def test_an_array_that_dies_on_the_way_of_an_exception_leaves_it_alone(pool: BufferPool) -> None:
    def fails() -> None:
        with step():
            array = np.ones(MIB, np.uint8)
            raise ValueError(str(array[0]))

    with pytest.raises(ValueError, match="^1$") as caught:
        fails()
    del caught
    until(lambda: pool.num_lent == 0)


def test_small_arrays_cannot_be_asked_for() -> None:
    with pytest.raises(InvalidArgument, match="least_bytes is 4096; it must be at least 65536"):
        shared_arrays.install(lambda nbytes: segments.pool().take(nbytes), 4096)


def copies() -> int:
    return transport.totals()["sent"].get("shared memory", Totals()).copies


def options_of(array: np.ndarray, found: bytes | None) -> tuple[bytes, int]:
    assert found is not None
    answer = encode_recv_tensor_response(array[:0], None, False, 5) + found
    datatype, _, _, _, options, _ = scan_recv_tensor_response(answer)
    assert options is not None
    return options, datatype


def number_of(options: bytes) -> int:
    return handover._shared_tensor(options).lease.lease


def test_an_array_is_lent_as_it_is_and_not_changed_while_it_is(pool: BufferPool) -> None:
    variable = Variable("v", "", int(DataType.UINT8))
    with step():
        variable.value = np.full(MIB, 1, np.uint8)
        before = copies()
        options, _ = options_of(variable.value, handover.lend_tensor(variable.value))
        assert copies() == before and pool.num_lent == 1
        with program("borrowing_program.py", lender().address) as other:
            assert other.ask(f"{number_of(options)} {MIB} hold") == f"{MIB} False"
            changed = variable.writable()
            changed += 1
            assert pool.num_lent == 2  # what the other one sees is what was lent
            del changed
            options, _ = options_of(variable.value, handover.lend_tensor(variable.value))
            assert other.ask(f"{number_of(options)} {MIB} hold") == f"{2 * MIB} False"
            assert other.ask("0 0 release") == "released"
            until(lambda: lender().num_leases == 0 and pool.num_lent == 1)
        changed = variable.writable()  # nobody sees it any more: in place
        assert changed is variable.value and pool.num_lent == 1
        del changed


def test_what_a_receiver_cannot_reach_is_not_changed_before_it_is_sent(pool: BufferPool) -> None:
    variable = Variable("v", "", int(DataType.FLOAT))
    with step():
        variable.value = np.ones((512, 512), np.float32)
        options, datatype = options_of(variable.value, handover.lend_tensor(variable.value))
        request = wire.RecvTensorRequest.FromString(handover.refusal(options, datatype))
        returned = handover.take_back(request.transport_options)
        assert returned is not None and pool.num_lent == 1
        changed = variable.writable()
        changed += 1
        assert returned[0].shape == (512, 512) and (returned[0] == 1).all()
        del changed, returned


def test_views_are_lent_as_they_are_where_they_are_all_of_it(pool: BufferPool) -> None:
    with step():
        whole = np.arange(MIB // 4, dtype=np.float32)
    cases = [(whole.reshape(512, 512), 0), (whole[: MIB // 8], 1), (whole[::2], 1), (whole.reshape(512, 512).T, 1),
             (whole[MIB // 8 :], 1)]
    for array, num_copies in cases:
        before = copies()
        assert handover.is_in_segment(array) == (not num_copies)  # what is copied is not for the server's loop
        found = handover.take_tensor(*options_of(array, handover.lend_tensor(array)))
        assert copies() - before == num_copies
        assert (found == array).all() and found.flags.writeable == bool(num_copies)
        del found
        until(lambda: num_borrowed() == 0)


def test_fetches_are_copies_that_the_client_may_write_to(pool: BufferPool) -> None:
    with step():
        array = np.ones(MIB, np.uint8)
    before = copies()
    found = handover.lend(array)
    assert found is not None and copies() == before + 1 and not found[1].is_read_only
