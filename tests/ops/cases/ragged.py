"""Cases of ragged tensors."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from runtime.dtypes import from_numpy
from tests.ops.case import INDEX, Case, Run, graph_case, node, op_case
from tests.ops.cases.sparse_tensors import EVERY, longs
from tests.ops.cases.variables import feeds
from tests.ops.values import values

ONE = np.float32
OUTER, INNER = [0, 2, 2, 3], [0, 3, 4, 6]


def cases() -> Iterator[Case]:
    """Yield the cases."""
    yield from _sparse()
    yield from _ranges()
    yield from _gathers()
    yield from _dense()
    yield from _parallel()


def _sparse() -> Iterator[Case]:
    op = "RaggedTensorToSparse"
    for kind in EVERY:
        yield op_case(op, longs(*INNER), values(kind, (6,)))
    for index in INDEX:
        yield op_case(op, np.array(OUTER, index), np.array(INNER, index), values(ONE, (6,)))
        yield op_case(op, np.array(INNER, index), values(ONE, (6, 2, 2)))
    yield op_case(op, longs(0, 0, 0), values(ONE, (0,)))
    yield op_case(op, longs(0), values(ONE, (0,)))
    for splits in ([], [1, 6], [0, 3, 2, 6], [0, 3], [0, 9]):
        yield op_case(op, np.array(splits, np.int64), values(ONE, (6,)), name=str(splits), text=False)


def _ranges() -> Iterator[Case]:
    op = "RaggedRange"
    for kind in (np.float32, np.float64, np.int32, np.int64):
        for splits in INDEX:
            yield op_case(op, np.array([0, 5, 8], kind), np.array([3, 9, 2], kind), np.array([1, 2, -3], kind),
                          Tsplits=splits)
        yield op_case(op, np.array(0, kind), np.array([3, 0, -2], kind), np.array(1, kind), Tsplits=np.int64)
        yield op_case(op, np.array(2, kind), np.array(7, kind), np.array(2, kind), Tsplits=np.int64)
        yield op_case(op, np.array(2, kind), np.array(7, kind), np.array(0, kind), Tsplits=np.int64)
        yield op_case(op, np.array([], kind), np.array(7, kind), np.array(1, kind), Tsplits=np.int64)
    yield op_case(op, np.array([0, 0.5], ONE), np.array([1, 0.7], ONE), np.array(0.3, ONE), Tsplits=np.int64)
    yield op_case(op, longs(1, 2), longs(1, 2, 3), longs(1, 1), Tsplits=np.int64)
    yield op_case(op, longs(1)[None], longs(1), longs(1), Tsplits=np.int64)


def _gathers() -> Iterator[Case]:
    op = "RaggedGather"
    for kind in EVERY:
        yield op_case(op, longs(*INNER), values(kind, (6,)), longs(2, 0, 0), PARAMS_RAGGED_RANK=1, OUTPUT_RAGGED_RANK=1)
    for index in INDEX:
        yield op_case(op, np.array(OUTER, index), np.array(INNER, index), values(ONE, (6, 2)),
                      np.array([[2, 0], [1, 0]], np.int32), PARAMS_RAGGED_RANK=2, OUTPUT_RAGGED_RANK=3)
    yield op_case(op, longs(*INNER), values(ONE, (6,)), np.array(1), PARAMS_RAGGED_RANK=1, OUTPUT_RAGGED_RANK=0)
    yield op_case(op, longs(*OUTER), longs(*INNER), values(ONE, (6,)), np.array(2), PARAMS_RAGGED_RANK=2,
                  OUTPUT_RAGGED_RANK=1)
    yield op_case(op, longs(*INNER), values(ONE, (6,)), np.zeros((2, 0), np.int64), PARAMS_RAGGED_RANK=1,
                  OUTPUT_RAGGED_RANK=2)
    for bad in ([3], [-1], [0, 7]):
        yield op_case(op, longs(*INNER), values(ONE, (6,)), np.array(bad), PARAMS_RAGGED_RANK=1, OUTPUT_RAGGED_RANK=1,
                      name=str(bad))
    for splits in ([0, 9], [0, 4, 2, 6]):
        yield op_case(op, np.array(splits), values(ONE, (6,)), longs(0), PARAMS_RAGGED_RANK=1, OUTPUT_RAGGED_RANK=1,
                      name=str(splits), text=False)


def _dense() -> Iterator[Case]:
    op = "RaggedTensorToTensor"
    free = np.array(-1)
    for kind in EVERY:
        yield op_case(op, free, values(kind, (6,)), values(kind, (), 1), longs(*INNER),
                      row_partition_types=["ROW_SPLITS"])
    two, numbers = ["ROW_SPLITS", "ROW_SPLITS"], values(ONE, (6,))
    minus = np.array(-9, ONE)
    for shape in ([-1, -1, -1], [3, 2, 3], [2, 1, 2], [5, 4, 4], [-1, 1, -1], [0, -1, -1], [3, 2], [3, 2, 3, 1],
                  [3, -2, 3]):
        yield op_case(op, np.array(shape), numbers, minus, longs(*OUTER), longs(*INNER), row_partition_types=two,
                      name=str(shape), text=False)
    ids = ["FIRST_DIM_SIZE", "VALUE_ROWIDS"]
    yield op_case(op, free, numbers, minus, np.array(4), longs(0, 0, 0, 1, 3, 3), row_partition_types=ids)
    yield op_case(op, free, numbers, minus, np.array(3), longs(0, 0, 2), longs(0, 0, 0, 1, 2, 2),
                  row_partition_types=[*ids, "VALUE_ROWIDS"])
    yield op_case(op, free, values(ONE, (6, 2)), np.array([1, 2], ONE), longs(*INNER),
                  row_partition_types=["ROW_SPLITS"])
    yield op_case(op, np.array([-1, 2, 2]), values(ONE, (6, 2)), np.array([1], ONE), longs(*INNER),
                  row_partition_types=["ROW_SPLITS"])
    yield op_case(op, np.array([-1, 2, 3]), values(ONE, (6, 2)), minus, longs(*INNER),
                  row_partition_types=["ROW_SPLITS"], text=False)
    yield op_case(op, free, numbers[:0], minus, longs(0, 0, 0), row_partition_types=["ROW_SPLITS"])
    yield op_case(op, free, numbers, np.array([1, 2], ONE), longs(*INNER), row_partition_types=["ROW_SPLITS"],
                  text=False)
    yield op_case(op, free, numbers, minus, np.array(3), longs(0, 0, 0, 1, 2, 5), row_partition_types=ids, text=False)


def _parallel() -> Iterator[Case]:
    for kind in EVERY:
        rows = {f"x{number}": values(kind, (1, 2), number) for number in range(3)}
        data_type = from_numpy(rows["x0"].dtype)
        nodes = [node("Placeholder", name, dtype=data_type, shape=(1, 2)) for name in rows]
        nodes.append(node("ParallelConcat", "op", list(rows), N=3, T=data_type, shape=(3, 2)))
        yield graph_case("ParallelConcat", np.dtype(kind).name, nodes, Run(feeds(**rows), ["op:0"]))
