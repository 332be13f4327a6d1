"""One op twice: its compiled kernel, which must not decline unless a test says so, and its Python definition."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from runtime._ext import kernels
from runtime._ext.executor import BoundKernel, Program, StepContext
from runtime._ext.variable import ResourceHandle, Variable
from runtime.devices.device import cpu_device
from runtime.dtypes import REF_OFFSET, from_numpy, to_numpy
from runtime.graph.node import Node, node_types, require_op
from runtime.ops import registry
from runtime.ops.variables import RESOURCE_VARIABLE, handle_array
from runtime.step.environment import KernelEnv, SessionState
from runtime.step.files import FileAccess
from tests.ops import case


class Declined(Exception):
    """The compiled kernel left the call to the Python definition."""


class Pair:
    """A node without inputs around it, callable both ways.

    Parameters
    ----------
    op : str
    **attrs
        As `tests.ops.case.attr` takes them; types of inputs included.
    """

    def __init__(self, op: str, **attrs: Any) -> None:
        definition = require_op(op)
        proto = case.node(op, "n", **attrs)
        self.node = Node(proto, definition, *node_types(proto, definition))
        device = cpu_device("localhost", 0)
        self.state = SessionState(device, FileAccess(None))
        self._python = registry.find(op).bind(self.node, KernelEnv(device, self.state, self._refuse))
        self.kernel = kernels.select(op, self.node.input_types, self.node.output_types, self.node.attr)
        self._types = [-1 if kind > REF_OFFSET else to_numpy(kind).num for kind in self.node.output_types]

    @staticmethod
    def _refuse(name: Any) -> Any:
        raise AssertionError(f"no function {name} here")

    @staticmethod
    def _declined(*args: Any) -> Any:
        raise Declined

    def program(self, args: Sequence[Any]) -> Program:
        """Return a program of the compiled kernel alone, with these arguments."""
        assert self.kernel is not None, f"no compiled kernel for {self.node.op}"
        count = len(args)
        bound = BoundKernel(None, "n", self._declined, self.kernel, count, self._types, None, False)
        outputs = range(len(self._types))
        return Program([bound], [tuple(range(-1, -1 - count, -1))], [outputs], len(outputs), list(args), [],
                       list(outputs), [None if kind >= 0 else "n" for kind in self._types])

    def compiled(self, *args: Any) -> list[Any]:
        """Call the compiled kernel; references come back as values.

        Raises
        ------
        Declined
            If it declines.
        """
        try:
            return self.program(args).run(StepContext(1, self.state), [])
        except Exception as error:
            if isinstance(error.__cause__, Declined):
                raise error.__cause__ from None
            raise

    def python(self, *args: Any) -> list[Any]:
        """Call the Python definition; references come back as values."""
        with np.errstate(all="ignore"):
            result = self._python(*args)
        if not self._types:
            return []
        results = result if isinstance(result, (list, tuple)) else [result]
        return [item.read() if isinstance(item, Variable) else np.asarray(item) for item in results]


def variable(value: np.ndarray | None, name: str = "v", shape: Any = None, dtype: Any = None) -> Variable:
    """Return a variable that alone holds a copy of `value`."""
    made = Variable(name, "localhost", int(from_numpy(np.dtype(dtype or value.dtype))), shape)
    made.value = None if value is None else np.array(value)
    return made


def handle(target: Any) -> np.ndarray:
    """Return a resource tensor that names `target`."""
    name = getattr(target, "name", "v")
    return handle_array(ResourceHandle("/device:CPU:0", "localhost", name, RESOURCE_VARIABLE, target))


def misaligned(array: np.ndarray) -> np.ndarray:
    """Return a read-only copy that begins one byte after an aligned address, as fed tensors may."""
    raw = bytearray(array.nbytes + 17)
    start = 1 + (-np.frombuffer(raw, np.uint8).ctypes.data) % 16
    raw[start:start + array.nbytes] = array.tobytes()
    return np.frombuffer(memoryview(raw).toreadonly()[start:start + array.nbytes],
                         array.dtype).reshape(array.shape)
