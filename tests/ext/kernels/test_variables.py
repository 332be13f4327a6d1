"""Compiled reads and assignments beside their Python definitions."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from runtime._ext.errors import Error
from tests.ext.kernels.pairs import Declined, Pair, handle, misaligned, variable

ADDABLE = ["f4", "f8", "i4", "i8", "u4", "u8"]
LARGE = (300, 411)


def pair_of(op, dtype, **attrs):
    if op.endswith("Op"):
        return Pair(op, dtype=np.dtype(dtype), **attrs)
    return Pair(op, T=np.dtype(dtype), use_locking=True, **attrs)


def target_of(op, item):
    return handle(item) if op.endswith("Op") else item


def values(dtype, shape, seed):
    rng = np.random.default_rng(seed)
    if np.dtype(dtype).kind == "f":
        made = np.asarray(rng.standard_normal(shape) * 1e3).astype(dtype)
        if made.size > 4:
            made.reshape(-1)[:4] = [np.nan, np.inf, -np.inf, -0.0]
        return made
    info = np.iinfo(dtype)  # sums leave the range
    return np.asarray(rng.integers(info.min, info.max, shape, dtype, endpoint=True))


# Reading


def test_reading_hands_out_the_array():
    item = variable(np.arange(4, dtype="f4"))
    (value,) = pair_of("ReadVariableOp", "f4").compiled(handle(item))
    assert value is item.value


def test_reading_objects():
    item = variable(np.array([b"a", b"bc"], object))
    (value,) = pair_of("ReadVariableOp", object).compiled(handle(item))
    assert value is item.value


@pytest.mark.parametrize("resource", [
    handle(variable(None, dtype="f4")), handle(variable(np.ones(2, "f8"))), handle(object()), np.array([None], object),
    np.array(None, object), np.ones((), "f4"),
], ids=["uninitialised", "other type", "no variable", "a vector", "no handle", "no resource"])
def test_reading_what_is_not_there_is_declined(resource):
    with pytest.raises(Declined):
        pair_of("ReadVariableOp", "f4").compiled(resource)


# Assigning


@pytest.mark.parametrize("op", ["AssignVariableOp", "Assign"])
def test_assigning_keeps_an_array_that_owns_its_memory(op):
    pair = pair_of(op, "f4", validate_shape=True)
    item = variable(np.zeros((2, 3), "f4"))
    value = np.arange(6, dtype="f4").reshape(2, 3).copy()
    pair.compiled(target_of(op, item), value)
    assert item.value is value
    for view in (np.arange(6, dtype="f4").reshape(2, 3), value[:, ::-1], np.asfortranarray(value), misaligned(value)):
        pair.compiled(target_of(op, item), view)
        assert item.value is not view
        assert item.value.base is None
        assert item.value.flags.c_contiguous and item.value.flags.aligned and item.value.flags.writeable
        np.testing.assert_array_equal(item.value, view)


def test_assigning_gives_the_reference_on():
    item = variable(np.zeros(2, "f4"))
    value = np.ones(2, "f4")
    assert pair_of("Assign", "f4", validate_shape=True).compiled(item, value)[0] is value


@pytest.mark.parametrize("op", ["AssignVariableOp", "Assign"])
@pytest.mark.parametrize("dtype", ["f4", "f2", "?", "i1", "c16", object])
def test_assigning_any_type(op, dtype):
    filled = np.array([b"x", b"yz"], object) if dtype is object else np.array([0, 1], dtype)
    item = variable(np.empty(2, dtype))
    pair_of(op, dtype, validate_shape=False).compiled(target_of(op, item), filled)
    assert item.value is filled


@pytest.mark.parametrize("op", ["AssignVariableOp", "Assign"])
def test_assigning_another_shape(op):
    item = variable(np.zeros(3, "f4"))
    other = np.ones((2, 2), "f4")
    with pytest.raises(Declined):
        pair_of(op, "f4", validate_shape=True).compiled(target_of(op, item), other)
    assert item.value.shape == (3,)
    pair_of(op, "f4", validate_shape=False).compiled(target_of(op, item), other)
    assert item.value is other


def test_first_assignment():
    value = np.ones(3, "f4")
    item = variable(None, dtype="f4", shape=(2,))
    pair_of("AssignVariableOp", "f4", validate_shape=True).compiled(handle(item), value)
    assert item.value is value
    with pytest.raises(Declined):  # the declared shape has to be looked at
        pair_of("Assign", "f4", validate_shape=True).compiled(variable(None, dtype="f4", shape=(2,)), value)
    with pytest.raises(Declined):  # the first assignment decides about the type
        pair_of("AssignVariableOp", "f4", validate_shape=True).compiled(handle(variable(None, dtype="f8")), value)


@pytest.mark.parametrize("op", ["AssignVariableOp", "Assign"])
def test_assigning_while_somebody_holds_the_variable_is_declined(op):
    item = variable(np.zeros(2, "f4"))
    with item.lock, pytest.raises(Declined):
        pair_of(op, "f4", validate_shape=True).compiled(target_of(op, item), np.ones(2, "f4"))
    np.testing.assert_array_equal(item.value, [0, 0])


# Adding and subtracting


@pytest.mark.parametrize("dtype", ADDABLE)
@pytest.mark.parametrize("op", ["AssignAddVariableOp", "AssignSubVariableOp", "AssignAdd", "AssignSub"])
def test_adding(op, dtype):
    pair = pair_of(op, dtype)
    for shape in ((), (0,), (5,), (3, 0, 2), (7, 9), LARGE):
        former, delta = values(dtype, shape, 1), values(dtype, shape, 2)
        for given in (delta, misaligned(delta)):
            ours, theirs = variable(former), variable(former)
            address = ours.value.ctypes.data
            result = pair.compiled(target_of(op, ours), given)
            pair.python(target_of(op, theirs), given)
            np.testing.assert_array_equal(ours.value, theirs.value, strict=True)
            assert ours.value.ctypes.data == address, "changed in place"
            assert not result or result[0] is ours.value


@pytest.mark.parametrize("shape", [(), (6,), LARGE])
def test_adding_leaves_a_readers_array_alone(shape):
    item = variable(values("f4", shape, 3))
    reader, before = item.value, item.value.copy()
    delta = np.full(shape, 1, "f4")
    pair_of("AssignAddVariableOp", "f4").compiled(handle(item), delta)
    np.testing.assert_array_equal(reader, before)
    np.testing.assert_array_equal(item.value, before + delta)


def test_adding_the_variable_to_itself():
    item = variable(np.arange(5, dtype="i8"))
    pair_of("AssignAddVariableOp", "i8").compiled(handle(item), item.value)
    np.testing.assert_array_equal(item.value, [0, 2, 4, 6, 8])


@pytest.mark.parametrize("op", ["AssignAddVariableOp", "AssignAdd"])
def test_unusual_additions_are_declined_and_answered_by_the_definition(op):
    pair = pair_of(op, "f4")
    for item, delta in [(variable(np.ones(3, "f4")), np.ones(2, "f4")), (variable(None, dtype="f4"), np.ones(2, "f4"))]:
        with pytest.raises(Declined):
            pair.compiled(target_of(op, item), delta)
        with pytest.raises(Error):
            pair.python(target_of(op, item), delta)
        assert not item.lock.locked()
    for item, delta in [(variable(np.ones((3, 3), "f4")), np.ones((6, 3), "f4")[::2]),
                        (variable(np.ones(3, "f4")), np.ones(3, "f8"))]:
        with pytest.raises(Declined):
            pair.compiled(target_of(op, item), delta)


def test_types_without_a_kernel():
    for dtype in ("f2", "i1", "c8"):
        assert pair_of("AssignAddVariableOp", dtype).kernel is None


@pytest.mark.parametrize("shape", [(), LARGE])
def test_threads_lose_no_addition(shape):
    item = variable(np.zeros(shape, "i8"))
    pair = pair_of("AssignAddVariableOp", "i8")
    delta = np.ones(shape, "i8")
    turns, num_threads = 200, 4

    def add():
        for _ in range(turns):
            pair.compiled(handle(item), delta)

    threads = [threading.Thread(target=add) for _ in range(num_threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    np.testing.assert_array_equal(item.value, np.full(shape, turns * num_threads))
