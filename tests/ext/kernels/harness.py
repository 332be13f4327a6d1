"""One op's compiled kernel and its Python definition, run on the same arrays by the executor."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from runtime._ext import kernels as compiled_kernels
from runtime._ext.executor import BoundKernel, Program, StepContext
from runtime.devices.device import cpu_device
from runtime.dtypes import to_numpy
from runtime.ops import registry
from runtime.step.environment import KernelEnv, SessionState
from runtime.step.files import FileAccess
from tests.ops.case import op_case
from tests.ops.kernel_runner import build

Array = np.ndarray[Any, Any]
bf16 = ml_dtypes.bfloat16

SPECIAL = (0.0, -0.0, 1.0, -1.0, 0.5, -2.5, np.nan, np.inf, -np.inf, 1e-40, -1e-40, 3e38, -3e38, 6.0, 7.0, 1e-6)
EITHER_ZERO = frozenset({"Maximum", "Minimum", "Sign", "Relu", "Relu6", "LeakyRelu"})
"""Ops for which numpy's functions of 16-bit types choose the sign of a zero otherwise than those of the others."""
WHOLE = (0, 1, -1, 2, -3, 7, 1000, -(2**31), 2**31 - 1)


@dataclass(frozen=True)
class Answer:
    """What one run gave.

    Attributes
    ----------
    outputs : list of ndarray
    declined : bool
        Whether the Python definition had to answer.
    reused : tuple of int
        The inputs whose memory the first output has taken over.
    """

    outputs: list[Array]
    declined: bool
    reused: tuple[int, ...] = ()


class Op:
    """A node of an op whose inputs have the types of some arrays.

    Parameters
    ----------
    constants : collection of int
        Inputs that are known when the node is bound.
    **attrs
        As for `tests.ops.case.op_case`.
    """

    def __init__(self, op: str, *inputs: Array, constants: Collection[int] = (), **attrs: Any) -> None:
        native = [value.astype(value.dtype.newbyteorder("=")) for value in inputs]
        self.node = build(op_case(op, *native, **attrs))[-1]
        session = SessionState(cpu_device("local", 0), FileAccess([]))
        known = {index: native[index] for index in constants}
        env = KernelEnv(session.device, session, _no_functions, constants=known)
        self._inputs = inputs
        self._constants = constants
        self._definition = registry.find(op).bind(self.node, env)
        self.compiled = compiled_kernels.select(op, self.node.input_types, self.node.output_types, self.node.attr)

    def run(self, compiled: bool = True, dying: Collection[int] = ()) -> Answer:
        """Run; inputs in `dying` are copied inside the step first and are used nowhere else."""
        calls: list[int] = []
        copies: dict[int, int] = {}

        def definition(*args: Any) -> Any:
            calls.append(1)
            return self._definition(*args)

        feeds = [index for index in range(len(self._inputs)) if index not in self._constants]
        kernels: list[BoundKernel] = []
        wires_in: list[tuple[int, ...]] = []
        wires_out: list[tuple[int, ...]] = []
        numbers = {index: place for place, index in enumerate(feeds)}
        numbers.update({index: -1 - place for place, index in enumerate(self._constants)})
        count = len(feeds)
        for index in dying:
            kernels.append(_bound(f"copy{index}", _copier(copies, index), None, 1, [self._inputs[index].dtype.num]))
            wires_in.append((numbers[index],))
            wires_out.append((count,))
            numbers[index] = count
            count += 1
        types = [to_numpy(kind).num for kind in self.node.output_types]
        kernels.append(_bound("op", definition, self.compiled if compiled else None, len(self._inputs), types))
        wires_in.append(tuple(numbers[index] for index in range(len(self._inputs))))
        made = tuple(range(count, count + len(types)))
        wires_out.append(made)
        program = Program(
            kernels,
            wires_in,
            wires_out,
            count + len(types),
            [self._inputs[index] for index in self._constants],
            [self._inputs[index].dtype.num for index in feeds],
            list(made),
            [None] * len(made),
            lambda position, value: value,
        )
        outputs = program.run(StepContext(1, None), [self._inputs[index] for index in feeds])
        address = outputs[0].ctypes.data if outputs and outputs[0].size else None
        reused = tuple(index for index, copy in copies.items() if copy == address)
        return Answer(outputs, bool(calls), reused)


def check(op: str, *inputs: Array, dying: Collection[int] = (), constants: Collection[int] = (),
          relative: float = 0.0, **attrs: Any) -> Answer:
    """Run both, compare, and return what the compiled kernel gave; it must not have declined."""
    made = Op(op, *inputs, constants=constants, **attrs)
    assert made.compiled is not None, f"no compiled kernel for {op} of {[str(value.dtype) for value in inputs]}"
    before = [value.tobytes() for value in inputs]
    expected = made.run(compiled=False)
    answer = made.run(dying=dying)
    shapes = [value.shape for value in inputs]
    assert not answer.declined, f"{op} declined shapes {shapes}"
    for ours, theirs in zip(answer.outputs, expected.outputs, strict=True):
        if op in EITHER_ZERO and ours.dtype in (np.float16, bf16):
            ours, theirs = (np.where(side == 0, side.dtype.type(0), side) for side in (ours, theirs))
        assert_same(ours, theirs, f"{op} {shapes} {attrs}", relative)
    assert [value.tobytes() for value in inputs] == before, f"{op} wrote into a value that it does not own"
    return answer


def assert_same(ours: Array, theirs: Array, what: str = "", relative: float = 0.0) -> None:
    """The same type, shape and bits; one NaN is as good as another."""
    assert ours.dtype == theirs.dtype and ours.dtype.isnative, f"{what}: {ours.dtype} instead of {theirs.dtype}"
    assert ours.shape == theirs.shape, f"{what}: shape {ours.shape} instead of {theirs.shape}"
    if not is_floating(ours.dtype):
        np.testing.assert_array_equal(ours, theirs, what)
        return
    np.testing.assert_array_equal(np.isnan(ours), np.isnan(theirs), what)
    there = ~np.isnan(theirs)
    if relative:
        np.testing.assert_allclose(*[np.asarray(side[there], np.float64) for side in (ours, theirs)], rtol=relative,
                                   atol=float(ml_dtypes.finfo(ours.dtype).smallest_subnormal)
                                   if ours.dtype.itemsize == 2 else 0, err_msg=what)
        return
    bits = np.dtype(f"u{ours.dtype.itemsize}")
    np.testing.assert_array_equal(np.ascontiguousarray(ours)[there].view(bits),
                                  np.ascontiguousarray(theirs)[there].view(bits), what)


def is_floating(dtype: Any) -> bool:
    """Tell whether a type is one of real floating-point numbers, bfloat16 included."""
    return bool(np.dtype(dtype).kind == "f" or dtype == bf16)


def values(shape: Sequence[int], dtype: Any, seed: int = 0) -> Array:
    """Return an array of numbers of all kinds: specials, small and large, in random order."""
    rng = np.random.default_rng(seed + 7919 * len(shape) + int(np.prod(shape)))
    dtype = np.dtype(dtype)
    count = int(np.prod(shape))
    if dtype.kind == "b":
        return rng.integers(0, 2, shape).astype(bool)
    if dtype.kind in "iu":
        some = np.array([v for v in WHOLE if np.iinfo(dtype).min <= v <= np.iinfo(dtype).max], dtype)
        plain = rng.integers(0 if dtype.kind == "u" else -50, 50, count).astype(dtype)
    else:
        with np.errstate(over="ignore"):
            some = np.array(SPECIAL, dtype)
        plain = (rng.standard_normal(count) * 3).astype(dtype)
    chosen = np.where(rng.random(count) < 0.4, rng.choice(some, count), plain)
    return chosen.astype(dtype).reshape(shape)


def misaligned(array: Array) -> Array:
    """Return the same values at an odd address, read-only, as a fed tensor may lie in a request."""
    data = bytearray(array.nbytes + 1)
    data[1:] = array.tobytes()
    return np.frombuffer(bytes(data), array.dtype, array.size, 1).reshape(array.shape)


def scattered(array: Array) -> Array:
    """Return the same values, not one after the other in memory."""
    wide = np.empty((*array.shape, 2), array.dtype)
    wide[..., 0] = array
    return wide[..., 0]


def swapped(array: Array) -> Array:
    """Return the same values in the other byte order."""
    return array.astype(array.dtype.newbyteorder("S"))


def _bound(name: str, call: Callable[..., Any], compiled: Any, num_inputs: int, types: Sequence[int]) -> BoundKernel:
    return BoundKernel(None, name, call, compiled, num_inputs, types, None, False)


def _copier(copies: dict[int, int], index: int) -> Callable[[Array], Array]:
    def copy(value: Array) -> Array:
        made = np.array(value, order="C", copy=True)
        copies[index] = made.ctypes.data
        return made

    return copy


def _no_functions(name: Any) -> Any:
    raise AssertionError(f"no op here calls a function, and one asked for {name}")
