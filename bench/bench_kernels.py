"""Compiled kernels beside numpy, each pair in one interleaved run: ``python -m runtime.bench.bench_kernels``.

Where numpy has no such function it is Python's, element by element, or the nearest that it has: LAPACK's factors within
``slogdet`` for Lu, order 0 for Bessel functions of order 1. An op without a compiled kernel of its own (`DEFINED`) runs
its definition, which calls compiled loops.

Times are 10th percentiles of single calls in one process, ours with the executor's share of a node. Bandwidth counts
each input and output once; products count their multiplications and additions. A ratio is ours/numpy's: below one is
faster. numpy's own products use as many threads as it likes unless ``OPENBLAS_NUM_THREADS`` says otherwise.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from runtime import wire
from runtime._ext import kernels as compiled_kernels
from runtime._ext.executor import BoundKernel, Program, StepContext
from runtime.bench.report import environment, print_table, write_json
from runtime.devices.device import cpu_device
from runtime.dtypes import DataType, from_numpy, to_numpy
from runtime.graph.node import Node, node_types, require_op
from runtime.ops import registry
from runtime.step.environment import KernelEnv, SessionState
from runtime.step.files import FileAccess

Array = np.ndarray[Any, Any]
Run = Callable[[], Any]

DEFINED = frozenset({"TopKV2", "Lu", "CropAndResize"})
"""Ops whose definitions call compiled loops."""


@dataclass
class Case:
    """One kernel on given inputs, and what numpy does for the same result.

    Attributes
    ----------
    work : float
        Floating-point operations of a product; 0 where memory traffic is the measure.
    """

    op: str
    label: str
    inputs: Sequence[Array]
    numpy: Run
    attrs: dict[str, Any] = field(default_factory=dict)
    work: float = 0.0


def kernel_call(case: Case) -> Run:
    """Return a call of the compiled kernel, or of the definition of an op in `DEFINED`, by the executor."""
    definition = require_op(case.op)
    proto = wire.NodeDef(name="n", op=case.op)
    taken = 0
    for argument in definition.inputs:
        count = case.attrs[argument.number_attr] if argument.number_attr else 1
        if argument.type_attr:
            proto.attr[argument.type_attr].type = int(from_numpy(case.inputs[taken].dtype))
        if argument.number_attr:
            proto.attr[argument.number_attr].i = count
        taken += count
        proto.input.extend(["x"] * count)
    for name, value in case.attrs.items():
        if isinstance(value, bool):
            proto.attr[name].b = value
        elif isinstance(value, DataType):
            proto.attr[name].type = int(value)
        elif isinstance(value, int):
            proto.attr[name].i = value
        elif isinstance(value, str):
            proto.attr[name].s = value.encode()
        elif isinstance(value, list):
            proto.attr[name].list.i.extend(value)
    node = Node(proto, definition, *node_types(proto, definition))
    compiled = compiled_kernels.select(case.op, node.input_types, node.output_types, node.attr)
    if (compiled is None) is not (case.op in DEFINED):
        raise LookupError(f"{case.op} of {case.label} has {'no' if compiled is None else 'a'} compiled kernel")
    types = [to_numpy(kind).num for kind in node.output_types]
    count = len(case.inputs)

    def declined(*args: Any) -> Any:
        raise LookupError(f"the kernel of {case.op} declines {case.label}")

    function = declined if compiled is not None else definition_of(node)
    bound = BoundKernel(node, "n", function, compiled, count, types, None, False)
    outputs = list(range(len(types)))
    constants = list(range(-1, -1 - count, -1))
    program = Program([bound], [constants], [outputs], len(outputs), list(case.inputs), [], outputs,
                      [None] * len(outputs))
    step = StepContext(1, None)
    return lambda: program.run(step, [])


def definition_of(node: Node) -> Run:
    """Return the definition of a node's op, on the host."""
    device = cpu_device("localhost", 0)

    def no_functions(name: Any) -> Any:
        raise LookupError(f"there is no function {name}")

    return registry.find(node.op).bind(node, KernelEnv(device, SessionState(device, FileAccess(None)), no_functions))


def softmax(x: Array) -> Array:
    """Return the softmax of rows, as a program over numpy writes it."""
    exponential = np.exp(x - x.max(-1, keepdims=True))
    return np.asarray(exponential / exponential.sum(-1, keepdims=True))


def normalised(x: Array, scale: Array, offset: Array) -> Array:
    """Return an image normalised over all axes but the last."""
    mean = x.mean((0, 1, 2))
    centred = x - mean
    return np.asarray(centred * (scale / np.sqrt((centred * centred).mean((0, 1, 2)) + np.float32(1e-4))) + offset)


def cases() -> list[Case]:
    """Return what is measured."""
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> Array:
        return rng.standard_normal(shape, np.float32)

    found: list[Case] = []
    for shape in ((32, 128), (1000, 1000)):
        x, y, positive = normal(*shape), normal(*shape), np.abs(normal(*shape))
        row, label = normal(shape[1]), f"{shape[0]}x{shape[1]}"
        out = np.empty_like(x)

        def into(function: Any, *args: Any, out: Array = out) -> Run:
            return lambda: function(*args, out=out)

        found += [
            Case("AddV2", label, [x, y], into(np.add, x, y)),
            Case("Mul", label + " by a row", [x, row], into(np.multiply, x, row)),
            Case("Exp", label, [x], into(np.exp, x)),
            Case("Log", label, [positive], into(np.log, positive)),
            Case("Tanh", label, [x], into(np.tanh, x)),
            Case("Sigmoid", label, [x], lambda x=x: 1 / (1 + np.exp(-x))),
            Case("Relu", label, [x], into(np.maximum, x, np.float32(0))),
            Case("BiasAdd", label, [x, row], into(np.add, x, row)),
            Case("Softmax", label, [x], lambda x=x: softmax(x)),
            Case("Sum", label + " of rows", [x, np.array([1], np.int32)], lambda x=x: x.sum(1)),
            Case("Sum", label + " of columns", [x, np.array([0], np.int32)], lambda x=x: x.sum(0)),
            Case("Transpose", label, [x, np.array([1, 0], np.int32)], lambda x=x: np.ascontiguousarray(x.T)),
            Case("Split", label, [np.array(1, np.int32), x],
                 lambda x=x: [part.copy() for part in np.split(x, 4, 1)], {"num_split": 4}),
            Case("ConcatV2", label, [x, y, np.array(1, np.int32)], lambda x=x, y=y: np.concatenate([x, y], 1),
                 {"N": 2}),
            Case("SelectV2", label, [x > 0, x, y], lambda x=x, y=y: np.where(x > 0, x, y)),
        ]
    labels = rng.integers(0, 10, 128).astype(np.int32)
    logits, table, picked = normal(128, 10), normal(20000, 64), rng.integers(0, 20000, 2000).astype(np.int32)
    found.append(Case("SparseSoftmaxCrossEntropyWithLogits", "128x10", [logits, labels],
                      lambda: (softmax(logits), np.log(softmax(logits)[np.arange(128), labels]))))
    found.append(Case("GatherV2", "2000 rows of 64", [table, picked, np.array(0, np.int32)],
                      lambda: np.take(table, picked, 0)))
    x, scale, offset = normal(32, 28, 28, 32), normal(32), normal(32)
    found.append(Case("FusedBatchNormV3", "32x28x28x32", [x, scale, offset, scale, offset],
                      lambda: normalised(x, scale, offset)))
    for rows, inner, columns in ((1, 512, 512), (128, 784, 512), (32, 192, 512), (1024, 1024, 1024)):
        a, b = normal(rows, inner), normal(inner, columns)
        target = np.empty((rows, columns), np.float32)
        found.append(Case("MatMul", f"{rows}x{inner}x{columns}", [a, b],
                          lambda a=a, b=b, target=target: np.matmul(a, b, out=target),
                          work=2.0 * rows * inner * columns))
    return found


def largest(x: Array, k: int) -> tuple[Array, Array]:
    """Return the k largest entries of rows in order, and where they are."""
    places = np.argpartition(x, -k, -1)[..., -k:]
    values = np.take_along_axis(x, places, -1)
    order = np.argsort(-values, -1)
    return np.take_along_axis(values, order, -1), np.take_along_axis(places, order, -1)


def cropped(images: Array, boxes: Array, which: Array, size: int) -> Array:
    """Return crops of images, each of size by size cells, that lie within the images."""
    cells = np.arange(size, dtype=np.float32) / np.float32(size - 1)
    rows, columns = ((boxes[:, i, None] + cells * (boxes[:, i + 2] - boxes[:, i])[:, None])
                     * np.float32(images.shape[1 + i] - 1) for i in range(2))
    top, left = np.floor(rows).astype(int)[:, :, None], np.floor(columns).astype(int)[:, None]
    bottom, right = np.ceil(rows).astype(int)[:, :, None], np.ceil(columns).astype(int)[:, None]
    down, across = (rows - np.floor(rows))[:, :, None, None], (columns - np.floor(columns))[:, None, :, None]
    image = which[:, None, None]
    upper = images[image, top, left] * (1 - across) + images[image, top, right] * across
    lower = images[image, bottom, left] * (1 - across) + images[image, bottom, right] * across
    return np.asarray(upper * (1 - down) + lower * down)


def depthwise(x: Array, weights: Array) -> Array:
    """Return the sum of nine shifted images, each times its weight; the border is zeros."""
    height, width = x.shape[1:3]
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    out = np.zeros_like(x)
    for i in range(3):
        for j in range(3):
            out += padded[:, i:i + height, j:j + width] * weights[i, j, :, 0]
    return out


def special_cases() -> list[Case]:
    """Return what is measured of special functions, selections and factors: a million elements, or typical shapes."""
    rng = np.random.default_rng(1)
    x, inside = rng.standard_normal(10 ** 6, np.float32), rng.random(10 ** 6, np.float32)
    quantile = np.frompyfunc(statistics.NormalDist().inv_cdf, 1, 1)
    label = "10^6"
    found = [
        Case("Erf", label, [x], lambda: np.frompyfunc(math.erf, 1, 1)(x)),
        Case("Erfc", label, [x], lambda: np.frompyfunc(math.erfc, 1, 1)(x)),
        Case("Erfinv", label, [inside], lambda: quantile(inside * 0.5 + 0.25)),
        Case("Ndtri", label, [inside], lambda: quantile(inside * 0.5 + 0.25)),
        Case("BesselI0", label, [x], lambda: np.i0(x)), Case("BesselI1", label, [x], lambda: np.i0(x)),
        Case("BesselI0e", label, [x], lambda: np.i0(x) * np.exp(-np.abs(x))),
        Case("BesselI1e", label, [x], lambda: np.i0(x) * np.exp(-np.abs(x))),
    ]
    for shape, k in (((1000, 1000), 10), ((64, 32000), 5), ((1, 10 ** 6), 10)):
        rows = rng.standard_normal(shape, np.float32)
        found.append(Case("TopKV2", f"{k} of {shape[0]}x{shape[1]}", [rows, np.array(k, np.int32)],
                          lambda rows=rows, k=k: largest(rows, k), {"index_type": DataType.INT32}))
    images, corners = rng.random((8, 128, 128, 16), np.float32), np.sort(rng.random((2, 2, 64), np.float32), 0)
    boxes, which = np.ascontiguousarray(corners.reshape(4, 64).T), rng.integers(0, 8, 64).astype(np.int32)
    found.append(Case("CropAndResize", "64 crops of 32x32x16", [images, boxes, which, np.array([32, 32], np.int32)],
                      lambda: cropped(images, boxes, which, 32), {"method": "bilinear"}))
    for size in (64, 256, 1024):
        matrix = rng.standard_normal((size, size), np.float32)
        found.append(Case("Lu", f"{size}x{size}", [matrix], lambda matrix=matrix: np.linalg.slogdet(matrix),
                          {"output_idx_type": DataType.INT32}, 2 / 3 * size ** 3))
    cells, weights = rng.random((8, 56, 56, 64), np.float32), rng.random((3, 3, 64, 1), np.float32)
    found.append(Case("DepthwiseConv2dNative", "8x56x56x64 by 3x3", [cells, weights], lambda: depthwise(cells, weights),
                      {"strides": [1, 1, 1, 1], "padding": "SAME"}, 2.0 * cells.size * 9))
    return found


def measure(ours: Run, theirs: Run, seconds: float) -> tuple[float, float]:
    """Return the 10th percentiles of two calls in turn, in seconds."""
    times: tuple[list[float], list[float]] = ([], [])
    ours(), theirs()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[0]) < 5:
        for call, taken in zip((ours, theirs), times, strict=True):
            start = time.perf_counter()
            call()
            taken.append(time.perf_counter() - start)
    return float(np.percentile(times[0], 10)), float(np.percentile(times[1], 10))


def rows(seconds: float) -> list[dict[str, Any]]:
    """Measure every case."""
    found = []
    for case in (*cases(), *special_cases()):
        call = kernel_call(case)
        traffic = sum(array.nbytes for array in case.inputs) + sum(array.nbytes for array in call())
        ours, theirs = measure(call, case.numpy, seconds)
        rate = (case.work or traffic) / ours / 1e9
        found.append({"op": case.op, "case": case.label, "ours_us": ours * 1e6, "numpy_us": theirs * 1e6, "rate": rate,
                      "unit": "GFLOP/s" if case.work else "GB/s", "ratio": ours / theirs})
    return found


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=0.2, help="measured time per case, both sides together")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    options = parser.parse_args()
    with np.errstate(all="ignore"):
        measured = rows(options.seconds)
    print_table("compiled kernels and numpy, float32; times in us",
                ["kernel", "case", "ours", "numpy", "ratio", "rate", ""],
                [[row["op"], row["case"], row["ours_us"], row["numpy_us"], row["ratio"], row["rate"], row["unit"]]
                 for row in measured])
    if options.json:
        write_json(options.json, {"benchmark": "kernels", "environment": environment(), "rows": measured})


if __name__ == "__main__":
    main()
