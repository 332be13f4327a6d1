"""Cases of sparse tensors in other forms: serialised, and crossed."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from runtime.dtypes import DataType, from_numpy
from tests.ops.case import Case, Run, graph_case, node, op_case, tensor
from tests.ops.cases.sparse_tensors import DIMS, EVERY, ONE, OTHER, PLACES, longs
from tests.ops.cases.variables import fed, feeds
from tests.ops.values import values


def cases() -> Iterator[Case]:
    """Yield the cases."""
    yield from _serialized()
    yield from _deserialized()
    yield from _crosses()
    yield from _maps()


def _serialized() -> Iterator[Case]:
    for kind in EVERY:
        five = values(kind, (5,))
        yield op_case("SerializeSparse", PLACES, five, DIMS)
        yield op_case("SerializeManySparse", PLACES, five, DIMS)
        for variant, one in itertools.product((False, True), repeat=2):
            yield _round_trip(kind, variant, one)
    five = values(ONE, (5,))
    for op in ("SerializeSparse", "SerializeManySparse"):
        yield op_case(op, PLACES[:0], five[:0], DIMS)
        yield op_case(op, PLACES[0], five, DIMS, text=False)
        yield op_case(op, PLACES, five[1:], DIMS, text=False)
        yield op_case(op, PLACES, five, longs(4, 5, 6), text=False)
        yield op_case(op, PLACES, five, DIMS[None], text=False)
        yield op_case(op, PLACES[:, :1], five, DIMS[:1])
    yield op_case("SerializeManySparse", OTHER[[0, 2, 5]], five[:3], longs(6, 5))
    yield op_case("SerializeManySparse", PLACES + 1, five, DIMS, text=False)


def _round_trip(kind: Any, variant: bool, one: bool) -> Case:
    """Serialise, and read back what came of it."""
    data_type = from_numpy(np.dtype(kind))
    form = DataType.VARIANT if variant else DataType.STRING
    inputs = {"i": PLACES, "v": values(kind, (5,)), "s": DIMS}
    back = node("DeserializeSparse", "op", ["to"], dtype=data_type, Tserialized=form)
    to = node("SerializeSparse" if one else "SerializeManySparse", "to", ["i", "v", "s"], T=data_type, out_type=form)
    return graph_case("DeserializeSparse", f"{np.dtype(kind).name} {form.name} {one}", [*fed(**inputs), to, back],
                      Run(feeds(**inputs), ["op:0", "op:1", "op:2"]))


def _texts(rows: list[tuple[Any, ...]]) -> np.ndarray:
    result = np.empty((len(rows), 3), object)
    for place, row in enumerate(rows):
        for column, part in enumerate(row):
            result[place, column] = part if isinstance(part, bytes) else tensor(part).SerializeToString()
    return result


def _deserialized() -> Iterator[Case]:
    good = (PLACES, values(ONE, (5,)), DIMS)
    other = (OTHER, values(ONE, (6,)), longs(4, 7))
    for label, rows in (
        ("one", [good]), ("two", [good, other]), ("empty", [(PLACES[:0], good[1][:0], DIMS), other]),
        ("ranks", [good, (PLACES[:, :1], good[1], DIMS[:1])]), ("type", [(PLACES, values(np.int32, (5,)), DIMS)]),
        ("counts", [(PLACES, good[1][1:], DIMS)]),
        ("columns", [(PLACES, good[1], longs(4, 5, 6))]), ("vector", [(PLACES[0], good[1], DIMS)]),
        ("matrix", [(PLACES, good[1][None], DIMS)]), ("dims", [(PLACES, good[1], DIMS[None])]),
        ("damaged", [(b"\xff\xff", good[1], DIMS)]),
    ):
        texts = _texts(rows)
        yield op_case("DeserializeManySparse", texts, dtype=ONE, name=label, text=label not in ("damaged", "counts"))
        yield op_case("DeserializeSparse", texts, dtype=ONE, name=label, text=False)
        yield op_case("DeserializeSparse", texts[0], dtype=ONE, name=label, text=False)
    texts = _texts([good, other, other, good])
    yield op_case("DeserializeSparse", texts.reshape(2, 2, 3), dtype=ONE)
    yield op_case("DeserializeManySparse", texts[:, :2].copy(), dtype=ONE)
    yield op_case("DeserializeManySparse", texts[0], dtype=ONE)
    yield op_case("DeserializeManySparse", texts[:0], dtype=ONE)
    yield op_case("DeserializeSparse", texts[:0], dtype=ONE)
    yield op_case("DeserializeSparse", texts[:, :2].copy(), dtype=ONE)


def _crosses() -> Iterator[Case]:
    first = (np.array([[0, 0], [0, 1], [1, 0], [3, 0]]), np.array([b"a", b"bc", b"", b"d"], object), longs(4, 2))
    second = (np.array([[0, 0], [1, 0], [1, 1], [3, 0]]), np.array([7, -3, 2**60, 0]), longs(4, 2))
    dense = np.array([[b"x", b"yy"], [b"x", b""], [b"z", b"y"], [b"u", b"v"]], object)
    numbers = np.array([[5], [6], [-7], [8]])
    plans = (
        ([first], []), ([first, second], []), ([first, second], [dense, numbers]), ([], [dense, numbers]),
        ([second, first, second], [numbers]), ([second], []), ([first], [dense]), ([first, first], [dense, dense]),
    )
    for sparse, extra in plans:
        columns = list(zip(*sparse)) or [(), (), ()]
        inputs = [*columns[0], *columns[1], *columns[2], *extra]
        attrs = {"N": len(sparse), "sparse_types": [from_numpy(part.dtype) for part in columns[1]],
                 "dense_types": [from_numpy(part.dtype) for part in extra]}
        for buckets, key in ((0, 0xDECAFCAFFE), (100, 5)):
            yield op_case("SparseCross", *inputs, hashed_output=True, num_buckets=buckets, hash_key=key,
                          out_type=np.int64, internal_type=np.int64, **attrs)
        yield op_case("SparseCross", *inputs, hashed_output=False, num_buckets=0, hash_key=1, out_type=DataType.STRING,
                      internal_type=DataType.STRING, **attrs)
        yield op_case("SparseCross", *inputs, hashed_output=True, num_buckets=9, hash_key=1, out_type=np.int64,
                      internal_type=DataType.STRING, name="text", **attrs)
    empty = (first[0][:0], first[1][:0], longs(4, 2))
    common: dict[str, Any] = {"hashed_output": True, "num_buckets": 0, "hash_key": 3, "out_type": np.int64,
                              "internal_type": np.int64, "sparse_types": [DataType.STRING] * 2, "dense_types": [],
                              "N": 2}
    for other in (empty, (first[0][0], first[1], first[2]), (first[0], first[1][None], first[2]),
                  (first[0], first[1][1:], first[2]), (first[0], first[1], longs(4, 2, 1)),
                  (first[0], first[1], longs(5, 2))):
        yield op_case("SparseCross", *(part for pair in zip(first, other) for part in pair), text=False, **common)



def _maps() -> Iterator[Case]:
    """Keep sparse tensors in one run, take them out in another."""
    for kind in (ONE, np.int64, object):
        data_type = from_numpy(np.dtype(kind))
        inputs = {"i": PLACES, "v": values(kind, (5,)), "s": DIMS, "h": longs(0)}
        shared = {"shared_name": "kept", "T": data_type}
        nodes = [*fed(**inputs), node("AddSparseToTensorsMap", "one", ["i", "v", "s"], **shared),
                 node("AddManySparseToTensorsMap", "many", ["i", "v", "s"], **shared),
                 node("TakeManySparseFromTensorsMap", "op", ["h"], dtype=data_type, shared_name="kept"),
                 node("TakeManySparseFromTensorsMap", "wrong", ["h"], dtype=np.float16, shared_name="kept")]
        put = feeds(**{name: inputs[name] for name in "ivs"})

        def take(*numbers: int, nodes: list[Any] = nodes) -> Run:
            return Run(feeds(h=longs(*numbers)), ["op:0", "op:1", "op:2"])

        runs = [Run(put, ["one:0"]), Run(put, ["many:0"]), Run(put, ["one:0"]), take(3, 1), take(0, 5), take(2)]
        yield graph_case("TakeManySparseFromTensorsMap", np.dtype(kind).name, nodes, *runs)
        yield graph_case("AddManySparseToTensorsMap", f"{np.dtype(kind).name} gone", nodes, Run(put, ["many:0"]),
                         take(1), take(1), text=False)
        yield graph_case("AddSparseToTensorsMap", f"{np.dtype(kind).name} type", nodes, Run(put, ["one:0"]),
                         Run(feeds(h=longs(0)), ["wrong:0"]), text=False)
    bad = {"i": PLACES, "v": values(ONE, (4,)), "s": DIMS}
    for op in ("AddSparseToTensorsMap", "AddManySparseToTensorsMap"):
        nodes = [*fed(**bad), node(op, "op", ["i", "v", "s"], T=ONE)]
        yield graph_case(op, "too few values", nodes, Run(feeds(**bad), ["op:0"]), text=False)
