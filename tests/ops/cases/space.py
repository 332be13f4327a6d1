"""Cases of blocks moved between space, batch and depth, of data formats, patches and dilation."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tests.ops.case import COMPLEX, FLOATS, INDEX, INTEGERS, Case, op_case
from tests.ops.cases.arrays import ints
from tests.ops.values import values


def cases() -> Iterator[Case]:
    """Yield the cases."""
    yield from _batch_blocks()
    yield from _wrong_batch_blocks()
    yield from _depth()
    yield from _formats()
    yield from _patches()
    yield from _dilation()


def _pairs(*limits: tuple[int, int]) -> np.ndarray:
    return np.array(limits, np.int32).reshape(-1, 2)


def _batch_blocks() -> Iterator[Case]:
    to_batch = (
        ((1, 4, 4, 2), (2, 2), ((0, 0), (0, 0))), ((2, 3, 5, 1), (2, 3), ((1, 0), (0, 1))), ((2, 6), (3,), ((0, 0),)),
        ((2, 4, 3), (1, 3), ((0, 0), (0, 0))), ((1, 2, 2, 4, 3), (2, 1, 2), ((0, 0), (1, 1), (0, 2))),
        ((0, 4, 4, 1), (2, 2), ((0, 0), (0, 0))), ((3, 4), (), ()), ((1, 2, 2, 2, 4, 2), (2, 2, 2, 2), ((0, 0),) * 4),
    )
    from_batch = (
        ((4, 2, 2, 2), (2, 2), ((0, 0), (0, 0))), ((12, 2, 3, 1), (2, 3), ((1, 0), (0, 1))), ((6, 2), (3,), ((0, 0),)),
        ((6, 4, 1), (1, 3), ((0, 0), (0, 0))), ((8, 1, 4, 3, 3), (2, 1, 2), ((0, 0), (1, 1), (0, 2))),
        ((0, 4, 4, 1), (2, 2), ((0, 0), (0, 0))), ((3, 4), (), ()),
    )
    for op, table in (("SpaceToBatchND", to_batch), ("BatchToSpaceND", from_batch)):
        for shape, block, limits in table:
            yield op_case(op, values(np.float32, shape), ints(*block), _pairs(*limits), shaped=(1,))
        shape, block, limits = table[1]
        for kind in (*FLOATS, *INTEGERS):
            yield op_case(op, values(kind, shape), ints(*block), _pairs(*limits), shaped=(1,))
        yield op_case(op, values(np.float32, shape), ints(*block, kind=np.int64), _pairs(*limits).astype(np.int64),
                      shaped=(1,))
    x = values(np.float32, (2, 4, 6, 2))
    yield op_case("SpaceToBatch", x, _pairs((0, 0), (0, 0)), block_size=2)
    yield op_case("SpaceToBatch", x, _pairs((1, 1), (2, 1)), block_size=3)
    batch = values(np.int32, (8, 2, 3, 2))
    yield op_case("BatchToSpace", batch, _pairs((0, 0), (0, 0)), block_size=2)
    yield op_case("BatchToSpace", batch, _pairs((1, 0), (2, 3)).astype(np.int64), block_size=2)


def _wrong_batch_blocks() -> Iterator[Case]:
    x = values(np.float32, (4, 4, 4, 1))
    for op in ("SpaceToBatchND", "BatchToSpaceND"):
        for block, limits in (((3, 3), ((0, 0), (0, 0))), ((2, 2), ((0, 0),)), ((0, 2), ((0, 0), (0, 0))),
                              ((2, 2), ((-1, 1), (0, 0))), ((2, 2), ((5, 5), (0, 0)))):
            yield op_case(op, x, ints(*block), _pairs(*limits), shaped=(1,), name=f"{block} {limits}", text=False)
        yield op_case(op, x[0, 0], ints(2, 2), _pairs((0, 0), (0, 0)), shaped=(1,), text=False)
    yield op_case("SpaceToBatch", x, _pairs((0, 0), (0, 1)), block_size=2, text=False)
    yield op_case("BatchToSpace", x[:3], _pairs((0, 0), (0, 0)), block_size=2, text=False)


def _depth() -> Iterator[Case]:
    for kind in (*FLOATS, *INTEGERS):
        yield op_case("SpaceToDepth", values(kind, (2, 4, 6, 3)), block_size=2)
        yield op_case("DepthToSpace", values(kind, (2, 2, 3, 8)), block_size=2)
    for op, shape in (("SpaceToDepth", (2, 6, 3, 2)), ("DepthToSpace", (1, 2, 3, 18))):
        yield op_case(op, values(np.float32, shape), block_size=3)
        yield op_case(op, values(np.float32, (0, *shape[1:])), block_size=3)
        yield op_case(op, values(np.float32, shape), block_size=4, text=False)
        yield op_case(op, values(np.float32, shape[1:]), block_size=3, text=False)


def _formats() -> Iterator[Case]:
    for kind in INDEX:
        for source, target in (("NHWC", "NCHW"), ("NCHW", "NHWC"), ("NHWC", "HWNC"), ("NDHWC", "NCDHW")):
            formats = {"src_format": source, "dst_format": target}
            size = len(source)
            yield op_case("DataFormatDimMap", np.arange(-size, size).astype(kind), **formats)
            yield op_case("DataFormatDimMap", np.array(1, kind), **formats)
            yield op_case("DataFormatVecPermute", np.arange(size).astype(kind), **formats)
            yield op_case("DataFormatVecPermute", np.arange(2 * size).reshape(-1, 2).astype(kind), **formats)
            yield op_case("DataFormatVecPermute", np.arange(size - 2).astype(kind), **formats)
    yield op_case("DataFormatDimMap", np.zeros((0, 2), np.int32))
    yield op_case("DataFormatDimMap", np.array([9, -9], np.int32))
    for shape in ((3,), (4, 3), (4, 2, 1), (3, 2)):
        yield op_case("DataFormatVecPermute", np.zeros(shape, np.int32))
    for op in ("DataFormatDimMap", "DataFormatVecPermute"):
        yield op_case(op, np.zeros(4, np.int32), src_format="NHWC", dst_format="NCH", text=False)
        yield op_case(op, np.zeros(4, np.int32), src_format="NHWC", dst_format="NCHH", text=False)


def _windows() -> Iterator[dict[str, object]]:
    for size, stride, rate in ((2, 1, 1), (3, 2, 1), (2, 3, 2), (1, 1, 1)):
        for padding in ("SAME", "VALID"):
            yield {"size": size, "strides": [1, stride, max(stride - 1, 1), 1], "rates": [1, rate, 1, 1],
                   "padding": padding}


def _patches() -> Iterator[Case]:
    for window in _windows():
        size = window.pop("size")
        ksizes = [1, size, size + 1, 1]
        yield op_case("ExtractImagePatches", values(np.float32, (2, 7, 6, 3)), ksizes=ksizes, **window)
    plain = {"ksizes": [1, 2, 2, 1], "strides": [1, 1, 1, 1], "rates": [1, 1, 1, 1], "padding": "SAME"}
    for kind in (*FLOATS, *INTEGERS, *COMPLEX):
        yield op_case("ExtractImagePatches", values(kind, (1, 3, 4, 2)), **plain)
    x = values(np.float32, (1, 3, 4, 2))
    yield op_case("ExtractImagePatches", x[:0], **plain)
    yield op_case("ExtractImagePatches", x, **{**plain, "padding": "VALID", "ksizes": [1, 4, 4, 1]})
    yield op_case("ExtractImagePatches", x[0], **plain, text=False)
    for name in ("ksizes", "strides", "rates"):
        yield op_case("ExtractImagePatches", x, **{**plain, name: [1, 1, 1, 2]}, text=False)


def _dilation() -> Iterator[Case]:
    for window in _windows():
        size = window.pop("size")
        yield op_case("Dilation2D", values(np.float32, (2, 7, 6, 3), 1), values(np.float32, (size, size + 1, 3), 2),
                      **window)
    plain = {"strides": [1, 1, 1, 1], "rates": [1, 1, 1, 1], "padding": "SAME"}
    for kind in (*FLOATS, *INTEGERS):
        yield op_case("Dilation2D", values(kind, (1, 3, 4, 2), 1), values(kind, (2, 2, 2), 2), **plain)
    x = values(np.float32, (1, 3, 4, 2))
    yield op_case("Dilation2D", x, values(np.float32, (2, 2, 3)), **plain, text=False)
    yield op_case("Dilation2D", x[0], values(np.float32, (2, 2, 2)), **plain, text=False)
