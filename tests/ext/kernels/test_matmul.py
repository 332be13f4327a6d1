"""Compiled matrix products beside exact ones."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys

import numpy as np
import pytest

from runtime._ext import worker_pool
from runtime._ext.errors import InvalidArgument
from runtime._ext.kernels import simd
from tests.ext.kernels.pairs import Declined, Pair, misaligned

pytestmark = pytest.mark.skipif(simd.level_name() == "baseline", reason="the kernels need AVX2")

# Around the sizes of panels (14 or 6 rows, 4 to 32 columns), blocks (384 or 192 deep) and tiles (252 x 256).
SIZES = [1, 2, 5, 6, 7, 13, 14, 15, 16, 17, 28, 31, 32, 33, 63, 98, 130, 251, 253, 255, 257, 300]
DEPTHS = [1, 2, 7, 8, 9, 16, 31, 191, 193, 384, 385, 769]
# |error| <= depth * eps * (|A| |B|) always holds; sums in a fixed order stay far below it
EPSILON = {"f4": 2.0**-23, "f8": 2.0**-52}


def product_of(dtype, transpose_a=False, transpose_b=False):
    return Pair("MatMul", T=np.dtype(dtype), transpose_a=transpose_a, transpose_b=transpose_b)


def check(result, left, right, dtype):
    wide = np.longdouble if dtype == "f8" else np.float64
    exact = np.matmul(left.astype(wide), right.astype(wide))
    bound = np.matmul(np.abs(left).astype("f8"), np.abs(right).astype("f8")) * EPSILON[dtype] * (left.shape[-1] + 1)
    assert result.dtype == np.dtype(dtype) and result.shape == exact.shape
    assert result.flags.c_contiguous and result.flags.owndata and result.flags.writeable
    within = np.abs(result - exact) <= bound
    assert within.all(), f"{(~within).sum()} of {within.size} entries are wrong"


def matrices(rng, dtype, rows, inner, columns, transpose_a, transpose_b):
    a = rng.standard_normal((inner, rows) if transpose_a else (rows, inner)).astype(dtype)
    b = rng.standard_normal((columns, inner) if transpose_b else (inner, columns)).astype(dtype)
    return a, b


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize(("transpose_a", "transpose_b"), list(itertools.product([False, True], repeat=2)))
def test_sizes_around_every_edge(dtype, transpose_a, transpose_b):
    rng = np.random.default_rng(5)
    pair = product_of(dtype, transpose_a, transpose_b)
    shapes = [(rows, 40, 40) for rows in SIZES] + [(40, 40, columns) for columns in SIZES]
    shapes += [(20, inner, 37) for inner in DEPTHS]
    shapes += [tuple(int(rng.choice(choices)) for choices in (SIZES, DEPTHS, SIZES)) for _ in range(40)]
    for rows, inner, columns in shapes:
        a, b = matrices(rng, dtype, rows, inner, columns, transpose_a, transpose_b)
        (result,) = pair.compiled(a, b)
        check(result, a.T if transpose_a else a, b.T if transpose_b else b, dtype)


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_views(dtype):
    rng = np.random.default_rng(6)
    a, b = rng.standard_normal((90, 140)).astype(dtype), rng.standard_normal((140, 70)).astype(dtype)
    zero_step = np.broadcast_to(a[:1], a.shape)
    views_a = [a, a[::-1], a[:, ::-1], np.asfortranarray(a), misaligned(a), zero_step, np.repeat(a, 3, 1)[:, ::3],
               np.repeat(a, 2, 0)[::-2]]
    views_b = [b, b[::-1], b[:, ::-1], np.asfortranarray(b), misaligned(b), misaligned(b.T.copy()).T,
               np.broadcast_to(b[:, :1], b.shape), np.repeat(b, 2, 1)[:, ::2]]
    pair = product_of(dtype)
    for left, right in itertools.product(views_a, views_b):
        (result,) = pair.compiled(left, right)
        check(result, left, right, dtype)


def test_rows_of_a_packed_record_are_read_unaligned():
    records = np.zeros(50, np.dtype([("pad", "u1"), ("row", "f4", 33)]))
    records["row"] = np.random.default_rng(7).standard_normal((50, 33))
    right = np.random.default_rng(8).standard_normal((33, 20)).astype("f4")
    (result,) = product_of("f4").compiled(records["row"], right)
    check(result, records["row"], right, "f4")
    (result,) = product_of("f4").compiled(right.T, records["row"].T)
    check(result, right.T, records["row"].T, "f4")


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_empty(dtype):
    for rows, inner, columns in [(0, 3, 4), (3, 0, 4), (3, 4, 0), (0, 0, 0), (200, 0, 300)]:
        (result,) = product_of(dtype).compiled(np.ones((rows, inner), dtype), np.ones((inner, columns), dtype))
        np.testing.assert_array_equal(result, np.zeros((rows, columns), dtype), strict=True)


@pytest.mark.parametrize("shape", [(3, 4, 5), (40, 50, 60), (14, 400, 33)])
def test_infinities_and_nan_stay_in_their_rows_and_columns(shape):
    rows, inner, columns = shape
    a, b = np.ones((rows, inner), "f4"), np.ones((inner, columns), "f4")
    a[1, 2], a[2, 0] = np.nan, np.inf
    b[1, columns - 1] = -np.inf
    (result,) = product_of("f4").compiled(a, b)
    expected = np.full((rows, columns), float(inner), "f4")
    expected[:, -1] = -np.inf
    expected[2, :] = np.inf
    expected[2, -1] = np.nan
    expected[1, :] = np.nan
    np.testing.assert_array_equal(result, expected)


def test_deep_products_are_summed_in_slices():
    rng = np.random.default_rng(9)
    for rows, inner, columns in [(25, 9000, 32), (3, 5000, 2), (100, 2048, 260)]:
        a = rng.standard_normal((inner, rows)).astype("f4")
        b = rng.standard_normal((inner, columns)).astype("f4")
        (result,) = product_of("f4", transpose_a=True).compiled(a, b)
        check(result, a.T, b, "f4")


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_rows_that_lie_pages_apart(dtype):
    rng = np.random.default_rng(13)
    for inner in (512, 1024, 1030):
        a, b = rng.standard_normal((30, inner)).astype(dtype), rng.standard_normal((inner, 1024)).astype(dtype)
        (result,) = product_of(dtype).compiled(a, b)
        check(result, a, b, dtype)
        (result,) = product_of(dtype, transpose_b=True).compiled(a, b.T)
        check(result, a, b, dtype)


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize(("transpose_a", "transpose_b"), list(itertools.product([False, True], repeat=2)))
def test_one_column(dtype, transpose_a, transpose_b):
    rng = np.random.default_rng(14)
    for rows, inner in [(1, 1), (1, 70), (70, 1), (9, 17), (300, 2100), (4100, 40)]:
        a, b = matrices(rng, dtype, rows, inner, 1, transpose_a, transpose_b)
        (result,) = product_of(dtype, transpose_a, transpose_b).compiled(a, b)
        check(result, a.T if transpose_a else a, b.T if transpose_b else b, dtype)


def test_large_product_is_the_same_with_any_number_of_threads():
    rng = np.random.default_rng(10)
    a, b = rng.standard_normal((300, 500)).astype("f4"), rng.standard_normal((500, 400)).astype("f4")
    before = worker_pool.workers()
    results = []
    try:
        for count in (1, 2, 4):
            worker_pool.set_workers(count)
            for _ in range(5):
                results.extend(product_of("f4").compiled(a, b))
    finally:
        worker_pool.set_workers(before)
    check(results[0], a, b, "f4")
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])


def test_what_does_not_fit_is_declined():
    pair = product_of("f4")
    a, b = np.ones((3, 4), "f4"), np.ones((4, 5), "f4")
    for left, right in [(a, a), (a[0], b), (a, b[:, 0]), (a[None], b[None])]:
        with pytest.raises(Declined):
            pair.compiled(left, right)
        with pytest.raises(InvalidArgument):
            pair.python(left, right)
    with pytest.raises(Declined):
        pair.compiled(a.astype(">f4"), b)
    assert Pair("MatMul", T=np.dtype("f2"), transpose_a=False, transpose_b=False).kernel is None
    assert Pair("MatMul", T=np.dtype("i4"), transpose_a=False, transpose_b=False).kernel is None


# Batches


def batch_of(op, dtype, adj_x=False, adj_y=False):
    types = {"Ta": np.dtype(dtype), "Tb": np.dtype(dtype), "Tout": np.dtype(dtype)} if op.endswith("V3") else \
        {"T": np.dtype(dtype)}
    return Pair(op, adj_x=adj_x, adj_y=adj_y, **types)


@pytest.mark.parametrize("op", ["BatchMatMul", "BatchMatMulV2", "BatchMatMulV3"])
@pytest.mark.parametrize(("adj_x", "adj_y"), list(itertools.product([False, True], repeat=2)))
def test_batches(op, adj_x, adj_y):
    rng = np.random.default_rng(11)
    for dtype, batch, (rows, inner, columns) in [("f4", (3,), (4, 5, 6)), ("f8", (2, 3), (7, 1, 2)),
                                                 ("f4", (), (5, 6, 7)), ("f4", (5, 2), (40, 64, 50)),
                                                 ("f4", (0, 2), (3, 4, 5)), ("f8", (2,), (130, 120, 140))]:
        x = rng.standard_normal((*batch, *((inner, rows) if adj_x else (rows, inner)))).astype(dtype)
        y = rng.standard_normal((*batch, *((columns, inner) if adj_y else (inner, columns)))).astype(dtype)
        (result,) = batch_of(op, dtype, adj_x, adj_y).compiled(x, y)
        check(result, x.swapaxes(-1, -2) if adj_x else x, y.swapaxes(-1, -2) if adj_y else y, dtype)


def test_batches_broadcast():
    rng = np.random.default_rng(12)
    for batch_x, batch_y in [((), (3,)), ((4, 1), (3,)), ((1,), (5,)), ((2, 1, 3), (4, 1)), ((0,), (1,)), ((2, 3), ())]:
        x = rng.standard_normal((*batch_x, 4, 6)).astype("f4")
        y = rng.standard_normal((*batch_y, 6, 5)).astype("f4")
        (result,) = batch_of("BatchMatMulV2", "f4").compiled(x, y)
        check(result, x, y, "f4")
        view = np.moveaxis(np.repeat(x, 2, -1), -1, 0)[::2]  # strided in every dimension
        (result,) = batch_of("BatchMatMulV2", "f4").compiled(np.moveaxis(view, 0, -1), y)
        check(result, x, y, "f4")


def test_batches_that_do_not_fit_are_declined():
    for op, left, right in [("BatchMatMul", (3, 4, 5), (5, 6)), ("BatchMatMul", (3, 4, 5), (1, 5, 6)),
                            ("BatchMatMulV2", (3, 4, 5), (2, 5, 6)), ("BatchMatMulV2", (4, 5), (4, 5)),
                            ("BatchMatMulV2", (5,), (5, 6))]:
        with pytest.raises(Declined):
            batch_of(op, "f4").compiled(np.ones(left, "f4"), np.ones(right, "f4"))


def test_lower_levels_in_processes_of_their_own():
    script = ("import pytest, sys; sys.exit(pytest.main(['-q', '-x', '-p', 'no:cacheprovider', sys.argv[1], '-k', "
              "'edge or views or slices or batches or pages or column']))")
    for level in simd.levels():
        if level in ("baseline", simd.level_name()):
            continue
        done = subprocess.run([sys.executable, "-c", script, __file__], env={**os.environ, simd.VARIABLE: level},
                              capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
