"""Compiled updates of some rows beside their Python definitions, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest

from runtime.ops.optimizers import SPARSE
from tests.ext.kernels.pairs import Declined, Pair, handle, misaligned, variable
from tests.ext.kernels.test_optimizers import FLAGS, SCALARS

VARIANTS = [(name, flag) for name in SPARSE for flag in ((False, True) if name in FLAGS else (None,))]
# Widths beside those of vectors; the columns of the large one are shared by threads.
SHAPES = [(5,), (4, 1), (6, 3), (5, 2, 9)]
LARGE = (4, 60001)
ROWS = ([], [3], [2, 0, 3], [1, 1, 3, 1, 0, 1])


def make(op_name, flag, dtype, by_handle, index_type="i4"):
    attrs = {"T": np.dtype(dtype), "Tindices": np.dtype(index_type), "use_locking": False}
    if flag is not None:
        attrs[FLAGS[op_name]] = flag
    return Pair(("ResourceSparseApply" if by_handle else "SparseApply") + op_name, **attrs)


def arrays_for(op_name, shape, rows, dtype, index_type="i4", **changed):
    """Return slot values, then the other inputs by name."""
    rng = np.random.default_rng(1)
    formula = SPARSE[op_name]
    slots = [rng.standard_normal(shape).astype(dtype) for _ in formula.slots]
    slots[1:] = [np.abs(slot) for slot in slots[1:]]  # second moments are not negative
    special = {"grad": rng.standard_normal((len(rows), *shape[1:])).astype(dtype),
               "indices": np.array(rows, index_type), "global_step": np.asarray(7)}
    scalars = {name: np.asarray(value, dtype) for name, value in {**SCALARS, **changed}.items()}
    return slots, {name: special[name] if name in special else scalars[name] for name in formula.inputs}


def apply(pair, variables, others, by_handle, compiled=True):
    refs = [handle(item) if by_handle else item for item in variables]
    return (pair.compiled if compiled else pair.python)(*refs, *others.values())


def check(pair, slots, others, by_handle):
    ours, theirs = ([variable(slot, f"s{i}") for i, slot in enumerate(slots)] for _ in range(2))
    apply(pair, ours, others, by_handle)
    apply(pair, theirs, others, by_handle, compiled=False)
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one.value, other.value, strict=True)


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize(("op_name", "flag"), VARIANTS)
def test_rows(op_name, flag, dtype):
    for by_handle in (False, True) if SPARSE[op_name].by_reference else (True,):
        pair = make(op_name, flag, dtype, by_handle)
        for shape in SHAPES:
            for rows in ROWS:
                check(pair, *arrays_for(op_name, shape, rows, dtype), by_handle)
    check(pair, *arrays_for(op_name, LARGE, ROWS[-1], dtype), by_handle)


def test_wide_indices_at_odd_addresses():
    slots, others = arrays_for("Adagrad", (6, 3), [4, 0, 4], "f4", "i8")
    pair = make("Adagrad", True, "f4", True, "i8")
    check(pair, slots, {name: misaligned(value) for name, value in others.items()}, True)


def test_no_columns():
    check(make("Adagrad", True, "f4", True), *arrays_for("Adagrad", (4, 0), [1, 1], "f4"), True)


def test_rows_are_changed_in_place_only_while_nobody_else_holds_the_array():
    slots, others = arrays_for("Momentum", (6, 3), [1, 4], "f4")
    pair = make("Momentum", False, "f4", True)
    variables = [variable(slot) for slot in slots]
    addresses = [item.value.ctypes.data for item in variables]
    apply(pair, variables, others, True)
    assert [item.value.ctypes.data for item in variables] == addresses
    reader = variables[1].value
    before = reader.copy()
    apply(pair, variables, others, True)
    assert variables[0].value.ctypes.data == addresses[0]
    assert variables[1].value is not reader
    np.testing.assert_array_equal(reader, before)
    np.testing.assert_array_equal(variables[1].value[[0, 2, 3, 5]], before[[0, 2, 3, 5]])


def test_unusual_inputs_are_declined():
    slots, others = arrays_for("Momentum", (6, 3), [1, 4], "f4")
    pair = make("Momentum", False, "f4", True)

    def declines(values=slots, **changes):
        given = [variable(value) for value in values]
        with pytest.raises(Declined):
            apply(pair, given, {**others, **changes}, True)
        for item, value in zip(given, values, strict=True):
            np.testing.assert_array_equal(item.value, value)
            assert not item.lock.locked()

    for indices in ([1, 6], [-1, 2], [1], [[1, 4]]):
        declines(indices=np.array(indices, "i4"))
    declines(indices=np.array([1, 4], "i2"))
    declines(grad=np.ones((2, 4), "f4"))
    declines(grad=np.ones(2, "f4"))
    declines(grad=np.ones((3, 3), "f4"))
    declines([slots[0], slots[1][:5]])
    declines([np.ones((), "f4"), np.ones((), "f4")])
    declines([np.ones((0, 3), "f4"), np.ones((0, 3), "f4")])


@pytest.mark.parametrize("changed", [{"lr": 0}, {"l1": -1}, {"l2": -1}, {"lr_power": -0.75}, {"l2_shrinkage": -1}])
def test_values_that_the_op_refuses_are_left_to_its_definition(changed):
    slots, others = arrays_for("FtrlV2", (4, 3), [1], "f4", **changed)
    with pytest.raises(Declined):
        apply(make("FtrlV2", False, "f4", True), [variable(slot) for slot in slots], others, True)
