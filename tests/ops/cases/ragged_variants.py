"""Cases of ragged tensors in variants: there and back in one step, since variants cannot be fetched; gradients."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from runtime.dtypes import DataType, from_numpy, to_numpy
from tests.ops.case import INDEX, Case, Run, graph_case, node
from tests.ops.cases.variables import fed, feeds
from tests.ops.values import TYPES, values

V = DataType.VARIANT
OUTER, INNER = [0, 2, 2, 3], [0, 3, 4, 6]
TYPE_NUMBER = re.compile(r"Expected row_splits Tensor dtype: .*")


def cases() -> Iterator[Case]:
    """Yield the cases."""
    for kind in TYPES:
        rows = values(to_numpy(kind), (6, 2), 1)
        yield _case(kind.label, [np.array(OUTER), np.array(INNER)], rows, batched=True)
        yield _case(f"{kind.label}, whole", [np.array(INNER)], rows, batched=False)
        yield from _gradients(kind, rows)
    rows = values(np.float32, (6,), 1)
    for index in INDEX:
        yield _case(f"splits of {np.dtype(index)}", [np.array(INNER, index)], rows, batched=True)
    yield _case("no ragged dimension", [], rows, batched=True, text=False)
    yield _case("no rows", [np.array([0])], rows[:0], batched=True)
    for label, splits in (("not from 0", [1, 6]), ("descending", [0, 4, 2, 6]), ("too far", [0, 9])):
        yield _case(label, [np.array(splits)], rows, batched=True, text=False)
    for change in ({"Tvalues": DataType.INT32}, {"Tsplits": DataType.INT32}):
        yield _case(str(change), [np.array(INNER)], rows, batched=True, text=TYPE_NUMBER, **change)
    yield from _sums()


def _case(label: str, splits: Sequence[np.ndarray], rows: np.ndarray, batched: bool, text: Any = True,
          **attrs: Any) -> Case:
    inputs = {**{f"s{place}": item for place, item in enumerate(splits)}, "v": rows}
    index = from_numpy(splits[0].dtype) if splits else DataType.INT64
    depth = len(splits) or int(batched)
    told = {"Tvalues": from_numpy(rows.dtype), "Tsplits": index, "output_ragged_rank": depth,
            "input_ragged_rank": depth - int(batched), **attrs}
    nodes = [*fed(**inputs), node("RaggedTensorToVariant", "to", list(inputs), RAGGED_RANK=len(splits),
                                  Tvalues=from_numpy(rows.dtype), Tsplits=index, batched_input=batched),
             node("RaggedTensorFromVariant", "back", ["to"], **told)]
    run = Run(feeds(**inputs), [f"back:{place}" for place in range(told["output_ragged_rank"] + 1)])
    return graph_case("RaggedTensorToVariant", label, nodes, run, text=text)


def _gradients(kind: DataType, rows: np.ndarray) -> Iterator[Case]:
    for batched in (True, False):
        inputs = {"s": np.array(INNER), "v": rows, "shape": np.array(rows.shape, np.int32)}
        to = node("RaggedTensorToVariant", "to", ["s", "v"], RAGGED_RANK=1, Tvalues=kind, Tsplits=DataType.INT64,
                  batched_input=batched)
        back = node("RaggedTensorToVariantGradient", "op", ["to", "s", "shape"], Tvalues=kind, Tsplits=DataType.INT64)
        yield graph_case("RaggedTensorToVariantGradient", f"{kind.label} {batched}", [*fed(**inputs), to, back],
                         Run(feeds(**inputs), ["op:0"]))


def _sums() -> Iterator[Case]:
    rows, other = values(np.float32, (6, 2), 1), values(np.float32, (6, 2), 2)
    for label, second, kind in (("alike", INNER, np.float32), ("other rows", [0, 1, 4, 6], np.float32),
                                ("other types", INNER, np.float64)):
        inputs = {"s": np.array(INNER), "v": rows, "t": np.array(second), "w": other.astype(kind)}
        to = [node("RaggedTensorToVariant", name, parts, RAGGED_RANK=1, Tvalues=from_numpy(inputs[parts[1]].dtype),
                   Tsplits=DataType.INT64, batched_input=False)
              for name, parts in (("a", ["s", "v"]), ("b", ["t", "w"]))]
        back = [node("RaggedTensorFromVariant", f"{name}_back", [name], Tvalues=DataType.FLOAT,
                     Tsplits=DataType.INT64, output_ragged_rank=1, input_ragged_rank=1) for name in ("sum", "zeros")]
        nodes = [*fed(**inputs), *to, node("AddN", "sum", ["a", "b"], N=2, T=V), node("ZerosLike", "zeros", ["a"], T=V),
                 *back]
        yield graph_case("RaggedTensorFromVariant", f"sums, {label}", nodes,
                         *[Run(feeds(**inputs), [f"{name}_back:0", f"{name}_back:1"]) for name in ("sum", "zeros")])
