"""Products and convolutions with element-wise kernels behind them, run as one: the bits of the separate kernels."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from runtime._ext import worker_pool
from runtime._ext.errors import InvalidArgument
from runtime._ext.executor import Program, StepContext
from runtime._ext.kernels import fused, simd
from runtime._ext.step_context import StepTrace
from runtime.dtypes import DataType, from_numpy
from runtime.step import fusion
from runtime.step.compile import CompiledStep
from tests.step.maker import GraphMaker, Runner

Array = np.ndarray[Any, Any]
Build = Callable[[GraphMaker, DataType], str]

FLOAT, DOUBLE = DataType.FLOAT, DataType.DOUBLE
JOINS_MATRICES = simd.level_name() != "baseline"


def compiled(maker: GraphMaker, feeds: list[str], fetches: list[str]) -> CompiledStep:
    runner = Runner(maker)
    runner.state.keeps_repeated = True  # the same product in each turn
    return runner.compile(feeds, fetches)


def size(step: CompiledStep) -> int:
    assert isinstance(step.executor, Program)
    return step.executor.num_instructions


@contextlib.contextmanager
def workers(count: int) -> Iterator[None]:
    before = worker_pool.workers()
    worker_pool.set_workers(count)
    try:
        yield
    finally:
        worker_pool.set_workers(before)


def compare(build: Build, arrays: dict[str, Array], joined: int | None, monkeypatch: pytest.MonkeyPatch) -> Array:
    """Run a graph with and without joining; return the result, which must be the same.

    Parameters
    ----------
    joined : int or None
        How many kernels the joined step has; None when that does not matter.
    """
    kind = from_numpy(next(iter(arrays.values())).dtype)
    maker = GraphMaker()
    for name in arrays:
        maker.placeholder(name, kind)
    fetches = [f"{build(maker, kind)}:0"]
    feeds = [f"{name}:0" for name in arrays]
    step = compiled(maker, feeds, fetches)
    if joined is not None:
        assert size(step) == joined
    with monkeypatch.context() as context:
        context.setattr(fusion, "products_of", lambda *args: {})
        plain = compiled(maker, feeds, fetches)
    values = list(arrays.values())
    with np.errstate(all="ignore"):
        ours, theirs = (made.run(StepContext(1, None), values)[0] for made in (step, plain))
    assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
    assert ours.tobytes() == theirs.tobytes()
    for value, before in zip(values, arrays.values(), strict=True):
        assert value is before
    return ours


def product(maker: GraphMaker, kind: DataType, transpose_a: bool = False) -> str:
    return maker.op("MatMul", "product", "a", "b", T=kind, transpose_a=transpose_a, transpose_b=False)


def bias(maker: GraphMaker, kind: DataType) -> str:
    return maker.op("BiasAdd", "biased", product(maker, kind), "row", T=kind)


def dense(maker: GraphMaker, kind: DataType) -> str:
    return maker.op("Relu", "active", bias(maker, kind), T=kind)


def row_and_tanh(maker: GraphMaker, kind: DataType) -> str:
    return maker.op("Tanh", "active", maker.op("AddV2", "sum", "row", product(maker, kind), T=kind), T=kind)


def scaled(maker: GraphMaker, kind: DataType) -> str:
    half = maker.const("half", np.array(0.5, np.float32 if kind == FLOAT else np.float64))
    value = maker.op("Mul", "scaled", product(maker, kind), half, T=kind)
    return maker.op("Elu", "active", maker.op("Sub", "rest", "full", value, T=kind), T=kind)


def added(maker: GraphMaker, kind: DataType) -> str:
    return maker.op("AddV2", "sum", "full", product(maker, kind), T=kind)


def added_to_dying(maker: GraphMaker, kind: DataType) -> str:
    return maker.op("AddN", "sum", product(maker, kind), maker.op("Softmax", "dying", "full", T=kind), T=kind, N=2)


def masked(maker: GraphMaker, kind: DataType) -> str:
    return maker.op("ReluGrad", "masked", product(maker, kind), "full", T=kind)


def own_square(maker: GraphMaker, kind: DataType) -> str:
    value = product(maker, kind)
    return maker.op("Mul", "squared", value, value, T=kind)


STEPS: dict[str, tuple[Build, tuple[str, ...]]] = {
    "bias": (bias, ("row",)),
    "bias, relu": (dense, ("row",)),
    "row, tanh": (row_and_tanh, ("row",)),
    "scale, subtract, elu": (scaled, ("full",)),
    "add": (added, ("full",)),
    "add to dying": (added_to_dying, ("full",)),
    "relu gradient": (masked, ("full",)),
    "square": (own_square, ()),
}
# one row and one column, panels and tiles with rests, rows longer than a block, several blocks and slices, nothing
SHAPES = [(1, 5, 7), (1, 40, 3000), (9, 17, 1), (3000, 40, 1), (2, 3, 2), (20, 37, 33), (14, 32, 32), (192, 32, 512),
          (40, 16, 1100), (300, 400, 70), (130, 1000, 130), (25, 4100, 32), (5, 0, 6), (1, 0, 6), (5, 0, 1)]


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_steps_behind_a_product_give_their_bits(name: str, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    build, more = STEPS[name]
    rng = np.random.default_rng(3)
    for rows, inner, columns in SHAPES:
        arrays = {"a": rng.standard_normal((rows, inner)).astype(dtype),
                  "b": rng.standard_normal((inner, columns)).astype(dtype)}
        for other in more:
            arrays[other] = rng.standard_normal(columns if other == "row" else (rows, columns)).astype(dtype)
        compare(build, arrays, (2 if name == "add to dying" else 1) if JOINS_MATRICES else None, monkeypatch)


@pytest.mark.parametrize("inner", [32, 500])  # as one sum, and in parts
def test_a_product_is_added_to_a_dying_value(inner: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As gradients are over the turns of a loop."""
    rng = np.random.default_rng(4)

    def build(maker: GraphMaker, kind: DataType) -> str:
        total = maker.op("Softmax", "first", "full", T=kind)
        for turn in range(3):
            made = maker.op("MatMul", f"product{turn}", "a", "b", T=kind, transpose_a=True, transpose_b=False)
            made = maker.op("AddV2", f"sum{turn}", *((total, made) if turn % 2 else (made, total)), T=kind)
            total = maker.op("Softmax", f"next{turn}", made, T=kind)
        return total

    arrays = {"a": rng.standard_normal((inner, 90)).astype("f4"), "b": rng.standard_normal((inner, 70)).astype("f4"),
              "full": rng.standard_normal((90, 70)).astype("f4")}
    compare(build, arrays, 7 if JOINS_MATRICES else None, monkeypatch)


def test_a_dying_factor_does_not_take_the_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(14)

    def build(maker: GraphMaker, kind: DataType) -> str:
        dying = maker.op("Softmax", "dying", "full", T=kind)
        made = maker.op("MatMul", "product", dying, dying, T=kind, transpose_a=False, transpose_b=False)
        return maker.op("AddV2", "sum", dying, made, T=kind)

    compare(build, {"full": rng.standard_normal((90, 90)).astype("f4")}, 2 if JOINS_MATRICES else None, monkeypatch)


@pytest.mark.skipif(not JOINS_MATRICES, reason="the kernels need AVX2")
def test_a_sum_with_a_product_is_formed_where_the_dying_value_lies() -> None:
    maker = GraphMaker()
    for name in ("a", "b", "full"):
        maker.placeholder(name)
    added_to_dying(maker, FLOAT)
    step = compiled(maker, ["a:0", "b:0", "full:0"], ["sum:0"])
    context = StepContext(1, None)
    step.run(context, [np.ones((600, 20), "f4"), np.ones((20, 600), "f4"), np.ones((600, 600), "f4")])
    assert 600 * 600 * 4 <= context.peak_bytes < 1.5 * 600 * 600 * 4


def test_two_products_and_a_bias_are_one_kernel_behind_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(5)

    def build(maker: GraphMaker, kind: DataType) -> str:
        other = maker.op("MatMul", "other", "c", "b", T=kind, transpose_a=False, transpose_b=False)
        total = maker.op("AddV2", "sum", other, product(maker, kind), T=kind)
        return maker.op("Sigmoid", "active", maker.op("BiasAdd", "biased", total, "row", T=kind), T=kind)

    arrays = {"a": rng.standard_normal((50, 60)), "b": rng.standard_normal((60, 40)),
              "c": rng.standard_normal((50, 60)), "row": rng.standard_normal(40)}
    compare(build, arrays, 2 if JOINS_MATRICES else None, monkeypatch)


@pytest.mark.parametrize(("left", "right"), [
    ((3, 20, 30), (3, 30, 40)), ((2, 1, 5, 6), (3, 6, 7)), ((40, 9, 12), (12, 33)), ((4, 100, 90), (4, 90, 80)),
])
def test_steps_behind_batches(left: tuple[int, ...], right: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(6)

    def build(maker: GraphMaker, kind: DataType) -> str:
        made = maker.op("BatchMatMulV2", "product", "a", "b", T=kind, adj_x=False, adj_y=False)
        return maker.op("Relu", "active", maker.op("AddV2", "sum", made, "row", T=kind), T=kind)

    arrays = {"a": rng.standard_normal(left).astype("f4"), "b": rng.standard_normal(right).astype("f4"),
              "row": rng.standard_normal(right[-1]).astype("f4")}
    compare(build, arrays, 1 if JOINS_MATRICES else None, monkeypatch)


def convolution(maker: GraphMaker, kind: DataType, stride: int = 1, layout: str = "NHWC") -> str:
    return maker.op("Conv2D", "made", "a", "b", T=kind, strides=[1, stride, stride, 1], padding="SAME",
                    data_format=layout)


def conv_layer(stride: int) -> Build:
    def build(maker: GraphMaker, kind: DataType) -> str:
        biased = maker.op("BiasAdd", "biased", convolution(maker, kind, stride), "row", T=kind)
        return maker.op("Relu", "active", biased, T=kind)

    return build


# images, filters: Winograd's algorithm (with odd sizes), a plain one, few channels, groups, one entry, wide
IMAGES = [((3, 13, 15, 32), (3, 3, 32, 32), 1), ((2, 15, 13, 32), (5, 5, 32, 48), 1),
          ((4, 28, 28, 1), (5, 5, 1, 32), 1), ((3, 20, 21, 24), (1, 1, 24, 33), 1), ((1, 1, 1, 9), (1, 1, 9, 5), 1),
          ((2, 9, 9, 40), (3, 3, 40, 2), 1), ((2, 12, 10, 8), (3, 3, 4, 6), 1), ((2, 14, 14, 20), (1, 1, 20, 17), 2),
          ((1, 5, 6, 3), (2, 2, 3, 1100), 1), ((2, 70, 300, 3), (3, 3, 3, 8), 2)]


@pytest.mark.parametrize(("image", "filter_", "stride"), IMAGES)
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_steps_behind_a_convolution(image: tuple[int, ...], filter_: tuple[int, ...], stride: int, dtype: str,
                                    monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(7)
    arrays = {"a": rng.standard_normal(image).astype(dtype), "b": rng.standard_normal(filter_).astype(dtype),
              "row": rng.standard_normal(filter_[-1]).astype(dtype)}
    compare(conv_layer(stride), arrays, 1, monkeypatch)


@pytest.mark.parametrize(("image", "filter_", "stride"), [
    ((3, 13, 15, 32), (3, 3, 32, 32), 1), ((2, 15, 13, 20), (5, 5, 20, 48), 1), ((2, 12, 10, 8), (3, 3, 4, 6), 1),
    ((2, 14, 14, 20), (1, 1, 20, 17), 1), ((2, 9, 11, 5), (4, 2, 5, 7), 2), ((0, 4, 4, 3), (2, 2, 3, 5), 1),
])
def test_steps_behind_the_gradient_of_an_input(image: tuple[int, ...], filter_: tuple[int, ...], stride: int,
                                               monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(13)

    def build(maker: GraphMaker, kind: DataType) -> str:
        maker.const("sizes", np.array(image, np.int32))
        made = maker.op("Conv2DBackpropInput", "made", "sizes", "b", "gradient", T=kind, padding="SAME",
                        strides=[1, stride, stride, 1])
        return maker.op("ReluGrad", "masked", made, "a", T=kind)

    outputs = (image[0], -(-image[1] // stride), -(-image[2] // stride), filter_[3])
    arrays = {"a": rng.standard_normal(image).astype("f4"), "b": rng.standard_normal(filter_).astype("f4"),
              "gradient": rng.standard_normal(outputs).astype("f4")}
    compare(build, arrays, 1 if stride == 1 else 2, monkeypatch)


def test_a_convolution_that_is_computed_anew_is_finished_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """An infinity makes Winograd's algorithm useless after some tiles have been worked on."""
    rng = np.random.default_rng(8)
    image = rng.standard_normal((2, 24, 24, 32)).astype("f4")
    image[1, 20, 20, 3] = np.inf
    arrays = {"a": image, "b": rng.standard_normal((3, 3, 32, 32)).astype("f4"),
              "row": rng.standard_normal(32).astype("f4")}
    made = compare(conv_layer(1), arrays, 1, monkeypatch)
    assert np.isfinite(made[0]).all() and np.isinf(made[1]).any()


def test_other_layouts_and_types_run_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(9)

    def first(maker: GraphMaker, kind: DataType) -> str:
        made = maker.op("Conv2D", "made", "a", "b", T=kind, strides=[1, 1, 1, 1], padding="SAME", data_format="NCHW")
        return maker.op("Relu", "active", made, T=kind)

    arrays = {"a": rng.standard_normal((2, 3, 8, 8)).astype("f4"), "b": rng.standard_normal((3, 3, 3, 5)).astype("f4")}
    compare(first, arrays, 2, monkeypatch)
    halves = {"a": rng.standard_normal((4, 5)).astype("f2"), "b": rng.standard_normal((5, 6)).astype("f2"),
              "row": rng.standard_normal(6).astype("f2")}
    compare(bias, halves, 2, monkeypatch)


@pytest.mark.parametrize("shape", [(20, 1), (3, 20, 30), (2, 1, 30), (1, 1, 1), (2, 1, 1)])
def test_what_is_of_another_shape_than_the_product_runs_behind_it(shape: tuple[int, ...],
                                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(10)

    def build(maker: GraphMaker, kind: DataType) -> str:
        return maker.op("Tanh", "active", maker.op("AddV2", "sum", product(maker, kind), "c", T=kind), T=kind)

    arrays = {"a": rng.standard_normal((20, 7)), "b": rng.standard_normal((7, 30)), "c": rng.standard_normal(shape)}
    made = compare(build, arrays, 1 if JOINS_MATRICES else None, monkeypatch)
    np.testing.assert_allclose(made, np.tanh(arrays["a"] @ arrays["b"] + arrays["c"]), 1e-12)


def test_what_is_fetched_or_read_elsewhere_is_made() -> None:
    maker = GraphMaker()
    for name in ("a", "b", "row"):
        maker.placeholder(name)
    dense(maker, FLOAT)
    maker.op("Shape", "shape", "product", out_type=DataType.INT32)
    feeds = ["a:0", "b:0", "row:0"]
    joined = 1 if JOINS_MATRICES else 2
    assert size(compiled(maker, feeds, ["active:0"])) == joined
    assert size(compiled(maker, feeds, ["active:0", "product:0"])) == 2
    # The product takes the bias along, or bias and activation are one kernel that keeps the sum.
    assert size(compiled(maker, feeds, ["active:0", "biased:0"])) == 2
    assert size(compiled(maker, feeds, ["active:0", "shape:0"])) == 3


def test_no_product_moves_behind_a_write() -> None:
    maker = GraphMaker()
    maker.placeholder("a")
    maker.op("VarHandleOp", "v", dtype=FLOAT, shape=(2, 2))
    maker.op("AssignVariableOp", "init", "v", "a", dtype=FLOAT)
    maker.op("ReadVariableOp", "b", "v", "^init", dtype=FLOAT)
    product(maker, FLOAT)
    maker.op("AssignAddVariableOp", "add", "v", "a", "^product", dtype=FLOAT)
    maker.op("Neg", "negated", "product", "^add")
    a = np.array([[1, 2], [3, 4]], np.float32)
    assert np.array_equal(Runner(maker).run("negated:0", {"a:0": a}), -(a @ a))


def test_an_error_names_the_node_that_made_it() -> None:
    maker = GraphMaker()
    for name in ("a", "b", "row"):
        maker.placeholder(name)
    dense(maker, FLOAT)
    step = compiled(maker, ["a:0", "b:0", "row:0"], ["active:0"])
    a, b, row = np.ones((3, 4), "f4"), np.ones((4, 5), "f4"), np.ones(5, "f4")
    for inputs, node in (([a, a, row], "product"), ([a, b, row[:4]], "biased"), ([a, b, b], "biased")):
        with pytest.raises(InvalidArgument) as caught:
            step.run(StepContext(1, None), inputs)
        assert str(caught.value).endswith(f"\n\t [[{{{{node {node}}}}}]]")
        assert str(caught.value).count("{{node") == 1
    assert step.run(StepContext(1, None), [a, b, row])[0].tolist() == np.full((3, 5), 5).tolist()


def test_a_traced_step_runs_every_node() -> None:
    maker = GraphMaker()
    for name in ("a", "b", "row"):
        maker.placeholder(name)
    dense(maker, FLOAT)
    rng = np.random.default_rng(11)
    values = [rng.standard_normal(shape).astype("f4") for shape in ((30, 20), (20, 50), (50,))]
    step = compiled(maker, ["a:0", "b:0", "row:0"], ["active:0"])
    plain = step.run(StepContext(1, None), values)[0]
    trace = StepTrace()
    traced = step.run(StepContext(1, None, trace), values)[0]
    assert [event[1].name for event in trace.events] == ["product", "biased", "active"]
    assert traced.tobytes() == plain.tobytes()


@pytest.mark.parametrize("count", [1, 2, 4])
def test_any_number_of_threads_gives_the_same_bits(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(12)
    with workers(count):
        for rows, inner, columns in [(300, 200, 310), (1, 2000, 3000), (3000, 900, 1), (25, 9000, 32)]:
            arrays = {"a": rng.standard_normal((rows, inner)).astype("f4"),
                      "b": rng.standard_normal((inner, columns)).astype("f4"),
                      "row": rng.standard_normal(columns).astype("f4")}
            compare(dense, arrays, None, monkeypatch)


@pytest.mark.skipif(not JOINS_MATRICES, reason="the kernels need AVX2")
def test_what_cannot_be_joined_is_refused() -> None:
    maker = GraphMaker()
    for name in ("a", "b", "row"):
        maker.placeholder(name)
    dense(maker, FLOAT)
    found: list[Any] = []
    original = fused.finish

    def spy(*args: Any) -> Any:
        found.append(args)
        return original(*args)

    with pytest.MonkeyPatch.context() as context:
        context.setattr(fused, "finish", spy)
        compiled(maker, ["a:0", "b:0", "row:0"], ["active:0"])
    (bound, steps, count, place), = found
    assert (fused.product_type(bound), fused.product_type(steps[0][0])) == (np.dtype("f4").num, -1)
    with pytest.raises(ValueError, match="the product is input 2 of 2"):
        fused.finish(bound, steps, count, 2)
    with pytest.raises(ValueError, match="is no product"):
        fused.finish(steps[0][0], steps, count, place)
    with pytest.raises(ValueError, match="can be one kernel"):
        fused.finish(bound, [], count, place)
