"""Cases of the parsing of Examples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from runtime.dtypes import DataType, from_numpy
from tests.ext.tensor_messages import field
from tests.ops.case import Case, op_case
from tests.ops.example_messages import NO_INTEGERS, NO_TEXTS, entry, example, feature, features, sequence

STRING, FLOAT, INT = DataType.STRING, DataType.FLOAT, DataType.INT64


def cases() -> Iterator[Case]:
    """Yield the cases."""
    yield from _batches()
    yield from _faults()
    yield from _options()


def texts(*items: str | bytes) -> np.ndarray:
    result = np.empty(len(items), object)
    result[:] = [item.encode() if isinstance(item, str) else item for item in items]
    return result


def default(kind: DataType, shape: Sequence[int] = (), filler: Any = None) -> np.ndarray:
    """Return a default: filled with one value, or empty where there is no filler."""
    dtype = {STRING: object, FLOAT: np.float32, INT: np.int64}[kind]
    if filler is None:
        return np.empty((0,), dtype)
    result = np.empty(tuple(shape), dtype)
    result[...] = filler
    return result


BATCH = [
    example(s=["a", "bc", ""], f=[1.5, -2.0], i=[1, -1, 2**40], d=[1.0, 2.0], e=[7], t=["x", "y", "z", "u"]),
    example(s=NO_TEXTS, i=[5], d=[3.0, 4.0], other=[1, 2, 3]),
    example({"f": [0.5], "s": ["q"], "d": [5.0, 6.0], "e": [9], "t": ["v", "w"]}, packed=False),
    b"",
]
"""Sparse s, f and i; dense d of two floats, e of one integer; t strings of varying number."""


def parse(batch: Sequence[bytes], *, sparse: Sequence[tuple[str, DataType]] = (),
          dense: Sequence[tuple[str, DataType, Any, np.ndarray]] = (),
          ragged: Sequence[tuple[str, DataType, Any]] = (), names: Sequence[str] = (), **more: Any) -> Iterator[Case]:
    """Yield what one plan gives through each of the ops that can follow it."""
    defaults = [part[3] for part in dense]
    attrs: dict[str, Any] = {
        "sparse_types": [kind for _, kind in sparse], "dense_shapes": [shape for _, _, shape, _ in dense],
        "Tdense": [from_numpy(value.dtype) for value in defaults], **more,
    }
    keys = [texts(*(part[0] for part in parts)) for parts in (sparse, dense, ragged)]
    yield op_case("ParseExampleV2", texts(*batch), texts(*names), *keys, *defaults, num_sparse=len(sparse),
                  ragged_value_types=[kind for _, kind, _ in ragged],
                  ragged_split_types=[from_numpy(np.dtype(kind)) for _, _, kind in ragged], **attrs)
    if ragged:
        yield op_case("ParseExampleV2", np.array(batch[0], object), texts(), *keys, *defaults, num_sparse=len(sparse),
                      ragged_value_types=[kind for _, kind, _ in ragged],
                      ragged_split_types=[from_numpy(np.dtype(kind)) for _, _, kind in ragged], **attrs)
        return
    scalars = [np.array(item, object) for part in keys[:2] for item in part]
    yield op_case("ParseExample", texts(*batch), texts(*names), *scalars, *defaults, Nsparse=len(sparse),
                  Ndense=len(dense), **attrs)
    for number, item in enumerate(batch[:3]):
        yield op_case("ParseSingleExample", np.array(item, object), *defaults, num_sparse=len(sparse),
                      sparse_keys=[part[0] for part in sparse], dense_keys=[part[0] for part in dense],
                      name=str(number), text=False, **attrs)
        yield op_case("ParseExampleV2", np.array(item, object), texts(), *keys, *defaults, num_sparse=len(sparse),
                      ragged_value_types=[], ragged_split_types=[], name=str(number), text=False, **attrs)


def _batches() -> Iterator[Case]:
    every = [("s", STRING), ("f", FLOAT), ("i", INT)]
    yield from parse(BATCH, sparse=every)
    yield from parse(BATCH, ragged=[("s", STRING, np.int32), ("f", FLOAT, np.int64), ("i", INT, np.int64)])
    yield from parse(BATCH[:3], dense=[("d", FLOAT, (2,), default(FLOAT)), ("e", INT, (), default(INT, (), -1))])
    yield from parse(BATCH, dense=[("d", FLOAT, (2, 1), default(FLOAT, (2, 1), 0.25)),
                                   ("none", STRING, (), default(STRING, (), b"n"))])
    yield from parse(BATCH, dense=[("t", STRING, (None,), default(STRING, (), b"-")),
                                   ("d", FLOAT, (None, 2), default(FLOAT, (1,), 9.0))])
    yield from parse(BATCH, sparse=every[:1], dense=[("e", INT, (1,), default(INT, (1,), 3))])
    yield from parse([], sparse=every, dense=[("d", FLOAT, (2,), default(FLOAT))])
    yield from parse(BATCH, sparse=[("absent", STRING)])
    yield from parse([example({f"k{place}": [place] for place in range(40)})] * 3,
                     sparse=[(f"k{place}", INT) for place in range(0, 40, 3)])


def _faults() -> Iterator[Case]:
    names = ["one", "two", "three", "four"]
    for called in ([], names):
        yield from parse(BATCH, sparse=[("s", INT)], names=called)
        yield from parse(BATCH, dense=[("d", FLOAT, (3,), default(FLOAT))], names=called)
        yield from parse(BATCH, dense=[("d", FLOAT, (2,), default(FLOAT))], names=called)
        yield from parse(BATCH, dense=[("d", INT, (2,), default(INT))], names=called)
        yield from parse(BATCH, dense=[("t", STRING, (None, 3), default(STRING, (), b""))], names=called)
    yield from parse(BATCH, names=["too few"], sparse=[("s", STRING)])
    yield from parse(BATCH, dense=[("d", FLOAT, (2,), default(FLOAT, (3,), 0.0))])
    yield from parse(BATCH, dense=[("t", STRING, (None,), default(STRING))])
    yield from parse(BATCH, dense=[("t", STRING, (None,), default(STRING, (2,), b""))])


def _options() -> Iterator[Case]:
    """What the wire format allows beside the usual."""
    twice = field(1, features({"i": [1, 2]}) + features({"i": [3]}))
    parts = field(1, features({"i": [1]})) + field(1, features({"f": [2.0]}))
    for label, message in (("twice", twice), ("parts", parts), ("empty list", example(i=NO_INTEGERS)),
                           ("no list", field(1, entry("i", b""))),
                           ("sequence", sequence({"i": [4]}, {"l": [[1]]}))):
        for op_cases in parse([message, example(i=[8])], sparse=[("i", INT), ("f", FLOAT)]):
            yield Case(**{**op_cases.__dict__, "name": f"{op_cases.name} {label}"})
    for message in (b"\x07", b"\x0a\x05a", field(1, b"\x0a\x7f"), example(i=[1])[:-1]):
        for op_cases in parse([message], sparse=[("i", INT)]):
            yield Case(**{**op_cases.__dict__, "text": False, "name": f"{op_cases.name} {message!r}"})
    long = example(i=list(range(1000)), s=["x" * 5000], f=[0.25] * 700)
    yield from parse([long] * 5, sparse=[("i", INT), ("s", STRING), ("f", FLOAT)])
    assert feature([1]) != feature([1], packed=False)
