"""Cases of the parsing of SequenceExamples; messages are TensorFlow's in part only, so codes are compared."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from runtime.dtypes import DataType, from_numpy
from tests.ops.case import Case, op_case
from tests.ops.cases.example_parsing import FLOAT, INT, STRING, default, texts
from tests.ops.example_messages import NO_FLOATS, NO_TEXTS, example, sequence

BATCH = [
    sequence({"s": ["a", "b"], "d": [1.5, 2.0], "i": [3]},
             {"w": [["x", "y"], NO_TEXTS, ["z"]], "v": [[1, 2], [3, 4], [5, 6]], "t": [["p"], ["q"]]}),
    sequence({"d": [0.5, 0.25]}, {"w": [["only"]], "v": [[7, 8]], "t": []}),
    sequence({"s": NO_TEXTS, "i": [1, 2], "d": [9.0, 8.0]}, {"v": [], "w": []}),
]

Sparse = Sequence[tuple[str, DataType]]
Dense = Sequence[tuple[str, DataType, tuple[int, ...]]]


def cases() -> Iterator[Case]:
    """Yield the cases."""
    context: Any = {"sparse": [("s", STRING), ("i", INT)],
                    "dense": [("d", FLOAT, (2,), default(FLOAT)), ("e", INT, (), default(INT, (), 4))]}
    yield from parse(BATCH, **context, list_sparse=[("w", STRING)],
                     list_dense=[("v", INT, (2,)), ("t", STRING, ())], optional=["t"])
    yield from parse(BATCH, list_dense=[("t", STRING, ())])
    yield from parse(BATCH, list_dense=[("v", INT, (3,))])
    yield from parse(BATCH, list_dense=[("v", INT, (2, 1))])
    yield from parse(BATCH, list_dense=[("v", FLOAT, (2,))])
    yield from parse(BATCH, list_sparse=[("v", STRING)])
    yield from parse(BATCH, sparse=[("d", INT)])
    yield from parse(BATCH, dense=[("e", INT, (), default(INT))])
    yield from parse(BATCH, list_sparse=[("absent", FLOAT)], list_dense=[("none", FLOAT, (3,))], optional=["none"])
    yield from parse([*BATCH, sequence({"d": NO_FLOATS}, {"v": [b""]})], list_sparse=[("v", INT)])
    yield from parse([*BATCH, sequence({"d": NO_FLOATS}, {"v": [b""]})], list_dense=[("v", INT, (2,))])
    yield from parse([sequence({"d": NO_FLOATS}, {})], dense=[("d", FLOAT, (2,), default(FLOAT))])
    yield from parse([example(s=["q"])], sparse=[("s", STRING)], list_sparse=[("w", STRING)])
    yield from parse([b"\x07"], sparse=[("s", STRING)])
    yield from parse([], sparse=[("s", STRING)], list_sparse=[("w", STRING)])
    yield from _ragged()


def parse(batch: Sequence[bytes], *, sparse: Sparse = (), dense: Sequence[Any] = (), list_sparse: Sparse = (),
          list_dense: Dense = (), optional: Sequence[str] = ()) -> Iterator[Case]:
    """Yield what one plan gives through each of the ops."""
    defaults = [part[3] for part in dense]
    types: dict[str, Any] = {
        "context_sparse_types": [kind for _, kind in sparse], "context_dense_shapes": [part[2] for part in dense],
        "Tcontext_dense": [from_numpy(value.dtype) for value in defaults],
        "feature_list_sparse_types": [kind for _, kind in list_sparse],
        "feature_list_dense_types": [kind for _, kind, _ in list_dense],
        "feature_list_dense_shapes": [shape for _, _, shape in list_dense],
    }
    numbers = {"Ncontext_sparse": len(sparse), "Nfeature_list_sparse": len(list_sparse),
               "Nfeature_list_dense": len(list_dense)}
    kept = [[part[0] for part in parts] for parts in (sparse, dense, list_sparse, list_dense)]
    lacking = np.array([name in optional for name in kept[3]], bool)
    for given in (texts(*batch), *(np.array(item, object) for item in batch)):  # a batch, or one alone
        yield op_case("ParseSequenceExample", given, texts(), *defaults, context_sparse_keys=kept[0],
                      context_dense_keys=kept[1], feature_list_sparse_keys=kept[2], feature_list_dense_keys=kept[3],
                      feature_list_dense_missing_assumed_empty=list(optional), Ncontext_dense=len(dense), text=False,
                      **numbers, **types)
        yield op_case("ParseSequenceExampleV2", given, texts(), texts(*kept[0]), texts(*kept[1]), texts(),
                      texts(*kept[2]), texts(*kept[3]), texts(), lacking, *defaults, text=False,
                      context_ragged_value_types=[], context_ragged_split_types=[],
                      feature_list_ragged_value_types=[], feature_list_ragged_split_types=[], **numbers, **types)
    scalars = [np.array(name.encode(), object) for names in kept for name in names]
    for number, item in enumerate(batch):
        yield op_case("ParseSingleSequenceExample", np.array(item, object), texts(*optional), *scalars, *defaults,
                      np.array(b"", object), Ncontext_dense=len(dense), name=str(number), text=False, **numbers,
                      **types)


def _ragged() -> Iterator[Case]:
    for given, splits in itertools.product((texts(*BATCH), np.array(BATCH[0], object)), (np.int32, np.int64)):
        yield op_case("ParseSequenceExampleV2", given, texts(), texts(), texts(), texts("s", "i"), texts(),
                      texts(), texts("w", "v"), np.zeros(0, bool), Ncontext_sparse=0, Nfeature_list_sparse=0,
                      Nfeature_list_dense=0, context_sparse_types=[], context_dense_shapes=[], Tcontext_dense=[],
                      feature_list_sparse_types=[], feature_list_dense_types=[], feature_list_dense_shapes=[],
                      context_ragged_value_types=[STRING, INT], context_ragged_split_types=[splits, splits],
                      feature_list_ragged_value_types=[STRING, INT],
                      feature_list_ragged_split_types=[splits, splits], compare=_but_scalars)


def _but_scalars(ours: list[Any], theirs: list[Any]) -> str:
    """Compare all but scalars: of one alone TensorFlow leaves the splits between rows as the memory was."""
    for slot, (mine, other) in enumerate(zip(ours, theirs)):
        if mine.shape != other.shape or (mine.ndim and mine.tolist() != other.tolist()):
            return f"output {slot} is {mine}, TensorFlow's {other}"
    return ""
