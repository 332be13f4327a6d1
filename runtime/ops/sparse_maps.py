"""Maps that keep sparse tensors under numbers, so that queues of plain tensors can carry them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime._ext.errors import InvalidArgument
from runtime.dtypes import DataType, base
from runtime.ops.handles import resource_place
from runtime.ops.registry import kernel
from runtime.ops.shapes import format_shape, scalar
from runtime.ops.sparse_indices import sorted_order
from runtime.ops.sparse_serialization import batched
from runtime.ops.sparse_tensors import check_sparse

if TYPE_CHECKING:
    from runtime.graph.node import Node
    from runtime.step.environment import KernelEnv

__all__ = ["SPARSE_MAP", "SparseMap"]

Run = Callable[..., Any]

SPARSE_MAP = "N10tensorflow16SparseTensorsMapE"
"""Kind of these maps in the resource manager, as TensorFlow's messages have it."""


@dataclass(frozen=True, eq=False, slots=True)
class _Entry:
    datatype: DataType
    parts: tuple[Any, Any, Any]


class SparseMap:
    """Sparse tensors by number. Safe from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._next = 0
        self._entries: dict[int, _Entry] = {}

    def add(self, entries: list[_Entry]) -> list[int]:
        """Keep tensors and return their numbers."""
        with self._lock:
            first = self._next
            self._next += len(entries)
            self._entries.update(enumerate(entries, first))
        return list(range(first, first + len(entries)))

    def take(self, numbers: list[int], name: str) -> list[_Entry]:
        """Return tensors and forget them.

        Raises
        ------
        InvalidArgument
            If a number stands for none; nothing is forgotten then.
        """
        seen: set[int] = set()
        with self._lock:
            for number in numbers:
                if number not in self._entries or number in seen:
                    raise InvalidArgument(f"Unable to find SparseTensor: {number} in map: {name}")
                seen.add(number)
            return [self._entries.pop(number) for number in numbers]


def _map_of(node: Node, env: KernelEnv) -> tuple[SparseMap, str]:
    container, name = resource_place(node, env, SPARSE_MAP, by_node_name=True)
    found: SparseMap = env.session.resources.lookup_or_create(container, SPARSE_MAP, name, SparseMap)
    return found, name


@kernel("AddSparseToTensorsMap", shape=scalar)
def _add_sparse(node: Node, env: KernelEnv) -> Run:
    kept, _ = _map_of(node, env)
    kind = base(node.input_types[1])

    def run(indices: Any, values: Any, shape: Any) -> Any:
        check_sparse(indices, values, shape)
        (number,) = kept.add([_Entry(kind, (indices.copy(), values.copy(), shape.copy()))])
        return np.int64(number)

    return run


@kernel("AddManySparseToTensorsMap", shape=lambda node, shapes: [(None,)])
def _add_many_sparse(node: Node, env: KernelEnv) -> Run:
    xp = env.xp
    kept, _ = _map_of(node, env)
    kind = base(node.input_types[1])

    def run(indices: Any, values: Any, shape: Any) -> Any:
        check_sparse(indices, values, shape)
        if shape.shape[0] <= 1:
            raise InvalidArgument(f"Rank of input SparseTensor should be > 1, but saw rank: {shape.shape[0]}")
        count = int(shape[0])
        rows = indices[:, 0]
        bad = (rows < 0) | (rows >= count)
        if bool(bad.any()):
            raise InvalidArgument("Received unexpected column 0 value in input SparseTensor: "
                                  f"{int(rows[int(xp.argmax(bad))])} < 0 (or >= {count})")
        order = sorted_order(xp, rows)
        if order is not None:
            rows, indices, values = rows[order], indices[order], values[order]
        cuts = xp.searchsorted(rows, xp.arange(count + 1)).tolist()
        rest = shape[1:].copy()
        entries = [_Entry(kind, (indices[begin:end, 1:].copy(), values[begin:end].copy(), rest))
                   for begin, end in zip(cuts, cuts[1:])]
        # Rows that hold something are numbered first, as in TensorFlow.
        places = sorted(range(count), key=lambda row: cuts[row] == cuts[row + 1])
        handles = np.empty(count, np.int64)
        handles[places] = kept.add([entries[place] for place in places])
        return xp.asarray(handles)

    return run


@kernel("TakeManySparseFromTensorsMap", shape=lambda node, shapes: [(None, None), (None,), (None,)], host=(0,))
def _take_many_sparse(node: Node, env: KernelEnv) -> Run:
    xp, wanted = env.xp, base(node.attr("dtype"))
    kept, name = _map_of(node, env)

    def run(handles: Any) -> tuple[Any, Any, Any]:
        if handles.ndim != 1:
            raise InvalidArgument(f"sparse_handles should be a vector but received shape {format_shape(handles.shape)}")
        if not handles.size:
            raise InvalidArgument("Must have at least 1 SparseTensor handle, got none")
        entries = kept.take(handles.tolist(), name)
        for number, entry in enumerate(entries):
            if entry.datatype != wanted:
                raise InvalidArgument(f"Requested SparseTensor of type {wanted.label} but SparseTensor[{number}].values"
                                      f".dtype() == {entry.datatype.label}")
        return batched(xp, (len(entries),), [entry.parts for entry in entries])

    return run
