"""Compiled optimizer updates beside their Python definitions, bit for bit."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from runtime._ext.kernels import optimizers
from runtime.ops.optimizers import DENSE, SPARSE
from tests.ext.kernels.pairs import Declined, Pair, handle, misaligned, variable

SCALARS = {"alpha": 0.1, "lr": 0.01, "momentum": 0.9, "beta1_power": 0.9**3, "beta2_power": 0.999**3, "beta1": 0.9,
           "beta2": 0.999, "epsilon": 1e-7, "rho": 0.95, "beta": 0.9, "sign_decay": 0.7, "l1": 0.3, "l2": 0.2,
           "l2_shrinkage": 0.1, "lr_power": -0.5}
# beyond the size from which the GIL is given up and the work is split, and not a multiple of anything
LARGE = (61, 4099)
SHAPES = [(), (0,), (3, 0), (1,), (7,), (33, 5), LARGE]
FLAGS = {"Momentum": "use_nesterov", "KerasMomentum": "use_nesterov", "Adam": "use_nesterov",
         "Adagrad": "update_slots", "AdagradV2": "update_slots", "Ftrl": "multiply_linear_by_lr",
         "FtrlV2": "multiply_linear_by_lr"}
COMPILED = [name for name in DENSE if name != "PowerSign"]  # its exponential is numpy's, to the last bit
VARIANTS = [(name, flag) for name in COMPILED for flag in ((False, True) if name in FLAGS else (None,))]


def make(op_name, flag, dtype, by_handle):
    attrs = {"T": np.dtype(dtype), "use_locking": False}
    if flag is not None:
        attrs[FLAGS[op_name]] = flag
    return Pair(("ResourceApply" if by_handle else "Apply") + op_name, **attrs)


def arrays_for(op_name, shape, dtype, seed=0, **changed):
    """Return slot values, then the other inputs by name."""
    rng = np.random.default_rng(seed)
    formula = DENSE[op_name]
    slots = [np.asarray(rng.standard_normal(shape)).astype(dtype) for _ in formula.slots]
    slots[1:] = [np.abs(slot) for slot in slots[1:]]  # second moments are not negative
    others = {name: np.asarray(rng.standard_normal(shape)).astype(dtype) if name in ("grad", "delta")
              else np.asarray({**SCALARS, **changed}[name], dtype) if name != "global_step" else np.asarray(7)
              for name in formula.inputs}
    return slots, others


def apply(pair, variables, others, by_handle, compiled=True):
    refs = [handle(item) if by_handle else item for item in variables]
    return (pair.compiled if compiled else pair.python)(*refs, *others.values())


def check(op_name, flag, dtype, by_handle, slots, others):
    pair = make(op_name, flag, dtype, by_handle)
    ours = [variable(slot, f"s{i}") for i, slot in enumerate(slots)]
    theirs = [variable(slot, f"s{i}") for i, slot in enumerate(slots)]
    result = apply(pair, ours, others, by_handle)
    apply(pair, theirs, others, by_handle, compiled=False)
    for one, other in zip(ours, theirs, strict=True):
        assert one.value.dtype == other.value.dtype
        np.testing.assert_array_equal(one.value, other.value, strict=True)
    if by_handle:
        assert result == []
    else:
        assert result[0] is ours[0].value
    return ours


def test_every_formula_has_a_kernel():
    expected = {f"Apply{name}" for name in COMPILED if DENSE[name].by_reference}
    expected |= {f"ResourceApply{name}" for name in COMPILED}
    expected |= {f"SparseApply{name}" for name in SPARSE if SPARSE[name].by_reference}
    assert set(optimizers.OPS) == expected | {f"ResourceSparseApply{name}" for name in SPARSE}


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize(("op_name", "flag", "by_handle"),
                         [(*variant, by_handle) for variant in VARIANTS for by_handle in (False, True)
                          if by_handle or DENSE[variant[0]].by_reference])
def test_shapes(op_name, flag, by_handle, dtype):
    for shape in SHAPES:
        slots, others = arrays_for(op_name, shape, dtype)
        check(op_name, flag, dtype, by_handle, slots, others)


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize(("op_name", "flag"), VARIANTS)
def test_special_values(op_name, flag, dtype):
    special = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, -1e-40, 3e38, -3e38, 1.0, 1e-20] * 5, dtype)
    slots, others = arrays_for(op_name, special.shape, dtype)
    for place in range(len(slots) + 1):
        changed = [special if i == place else slot for i, slot in enumerate(slots)]
        inputs = {name: np.roll(special, 3) if place == len(slots) and value.ndim else value
                  for name, value in others.items()}
        check(op_name, flag, dtype, True, changed, inputs)


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("op_name", [name for name in COMPILED if "l1" in DENSE[name].inputs])
def test_no_penalty(op_name, dtype):
    slots, others = arrays_for(op_name, (33, 5), dtype, l1=0, l2=0)
    check(op_name, None, dtype, True, slots, others)


@pytest.mark.parametrize(("op_name", "changed"), [("Ftrl", {"lr_power": -0.75}), ("ProximalAdagrad", {"lr": 0}),
                                                  ("ProximalAdagrad", {"l1": -1}), ("ProximalAdagrad", {"l2": -1})])
def test_values_that_the_loops_are_not_made_for(op_name, changed):
    slots, others = arrays_for(op_name, (4, 3), "f4", **changed)
    with pytest.raises(Declined):
        apply(make(op_name, None, "f4", False), [variable(slot) for slot in slots], others, False)


@pytest.mark.parametrize("shape", [(33, 5), LARGE])
def test_gradient_and_scalars_at_odd_addresses(shape):
    slots, others = arrays_for("Adam", shape, "f4")
    check("Adam", False, "f4", True, slots, {name: misaligned(value) for name, value in others.items()})


@pytest.mark.parametrize("shape", [(33, 5), LARGE])
def test_in_place_only_while_nobody_else_holds_the_array(shape):
    slots, others = arrays_for("Adam", shape, "f4")
    pair = make("Adam", False, "f4", True)
    variables = [variable(slot) for slot in slots]
    addresses = [item.value.ctypes.data for item in variables]
    apply(pair, variables, others, True)
    assert [item.value.ctypes.data for item in variables] == addresses
    reader = variables[1].value
    view = variables[2].value[1:]
    copies = reader.copy(), view.copy()
    apply(pair, variables, others, True)
    assert variables[0].value.ctypes.data == addresses[0]
    assert variables[1].value is not reader
    assert variables[2].value.ctypes.data != addresses[2]
    np.testing.assert_array_equal(reader, copies[0])
    np.testing.assert_array_equal(view, copies[1])


def test_read_only_array_is_replaced():
    slots, others = arrays_for("GradientDescent", (8,), "f4")
    slots[0].flags.writeable = False
    target = variable(slots[0])
    target.value = slots[0]
    former = slots[0].copy()
    del slots[:]
    apply(make("GradientDescent", None, "f4", True), [target], others, True)
    np.testing.assert_array_equal(target.value, former - others["delta"] * others["alpha"])
    assert target.value.flags.writeable


def test_gradient_that_is_the_variable_itself():
    target = variable(np.arange(9, dtype="f4"))
    pair = make("GradientDescent", None, "f4", True)
    apply(pair, [target], {"alpha": np.array(0.5, "f4"), "delta": target.value}, True)
    np.testing.assert_array_equal(target.value, np.arange(9, dtype="f4") / 2)


def test_unusual_inputs_are_declined():
    slots, others = arrays_for("Adam", (4, 3), "f4")
    pair = make("Adam", False, "f4", False)

    def declines(variables=None, **changes):
        given = variables or [variable(slot) for slot in slots]
        before = [None if item.value is None else item.value.copy() for item in given]
        with pytest.raises(Declined):
            apply(pair, given, {**others, **changes}, False)
        for item, former in zip(given, before, strict=True):
            np.testing.assert_array_equal(item.value, former)
            assert not item.lock.locked()

    fresh = [variable(slot) for slot in slots]
    declines([fresh[0], fresh[1], fresh[1]])  # one variable twice
    declines([fresh[0], fresh[1], variable(None, dtype="f4")])
    declines([fresh[0], fresh[1], variable(slots[2][:2])])
    declines([fresh[0], fresh[1], variable(slots[2].astype("f8"))])
    declines(grad=others["grad"].T)
    declines(grad=others["grad"][:, ::-1])
    declines(lr=np.ones(1, "f4"))
    declines(lr=np.array(1, "f8"))
    strided = variable(slots[0])
    strided.value = np.asfortranarray(slots[0])
    declines([strided, fresh[1], fresh[2]])
    with pytest.raises(Declined):  # a handle of something else
        make("Adam", False, "f4", True).compiled(handle(object()), *map(handle, fresh[1:]), *others.values())
    with pytest.raises(Declined):  # a reference that is fed is an array
        pair.compiled(slots[0], *fresh[1:], *others.values())


def test_other_types_have_no_kernel():
    assert Pair("ApplyAdam", T=np.dtype("f2"), use_locking=False, use_nesterov=False).kernel is None


@pytest.mark.parametrize("shape", [(40,), LARGE])
def test_threads_lose_no_update(shape):
    pair = make("GradientDescent", None, "f4", True)
    target = variable(np.zeros(shape, "f4"))
    others = {"alpha": np.array(1, "f4"), "delta": np.full(shape, -1, "f4")}
    turns, num_threads = 30, 4
    torn = []

    def update():
        for _ in range(turns):
            apply(pair, [target], others, True)

    def read():
        while not done.is_set():
            seen = target.read()
            low, high = seen.min(), seen.max()
            if low != high or seen.min() != low:
                torn.append((low, high))
            del seen

    done = threading.Event()
    threads = [threading.Thread(target=update) for _ in range(num_threads)]
    reader = threading.Thread(target=read)
    for thread in [*threads, reader]:
        thread.start()
    for thread in threads:
        thread.join(60)
    done.set()
    reader.join(60)
    assert not torn
    np.testing.assert_array_equal(target.value, np.full(shape, turns * num_threads, "f4"))
