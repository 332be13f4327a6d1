"""Lookup tables: what TensorFlow does not judge, and threads."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from runtime.dtypes import DataType
from runtime.errors import InvalidArgument, ResourceExhausted
from runtime.ops.state.dense_table import DenseTable
from runtime.ops.state.table import MutableTable
from tests.ops.waiting import WAIT_S

EMPTY, DELETED = np.array(-1), np.array(-2)


def dense(buckets: int) -> DenseTable:
    return DenseTable(DataType.INT64, DataType.FLOAT, (), EMPTY, DELETED, buckets, 0.8)


def test_buckets_are_a_power_of_two() -> None:
    table = dense(8)
    keys, values = np.array([[1], [-1], [-1], [-1], [-1]]), np.zeros((5, 1), np.float32)
    with pytest.raises(InvalidArgument, match="at least 4 and a power of 2, got: 5"):
        table.replace(keys, values)


def test_buckets_that_no_memory_holds_are_refused() -> None:
    with pytest.raises(ResourceExhausted, match="more than the"):
        dense(1 << 40)


def test_removed_keys_leave_room_for_others() -> None:
    table = MutableTable(DataType.INT64, DataType.STRING)
    texts = np.empty(100, object)
    texts[:] = [b"text %d" % number for number in range(100)]
    for turn in range(50):
        keys = np.arange(100) + turn * 100
        table.insert(keys, texts)
        assert table.find(keys, np.array(b"", object)).tolist() == texts.tolist()
        table.remove(keys)
    assert table.size() == 0
    assert len(table._values) <= 256


def test_threads_see_whole_rows() -> None:
    table, failures = MutableTable(DataType.INT64, DataType.INT64, (8,)), []
    keys, stop = np.arange(50), threading.Event()

    def write() -> None:
        try:
            for turn in range(300):
                table.insert(keys, np.full((50, 8), turn))
                if turn % 3 == 0:
                    table.remove(keys[::2])
        except BaseException as error:
            failures.append(error)
        stop.set()

    def read() -> None:
        try:
            while not stop.is_set():
                found = table.find(keys, np.full(8, -1))
                assert (found == found[:, :1]).all()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for work in (write, read, read)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
        assert not thread.is_alive()
    assert not failures
