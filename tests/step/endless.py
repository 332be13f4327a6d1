"""Steps that never end, or not for long: what a cancellation has to reach."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from runtime.dtypes import DataType
from tests.step.maker import GraphMaker, function

INT32, BOOL, FLOAT = DataType.INT32, DataType.BOOL, DataType.FLOAT


def frames() -> tuple[GraphMaker, str]:
    """Return a loop of frames and its end."""
    maker = GraphMaker()
    maker.const("zero", np.int32(0))
    maker.op("Enter", "enter", "zero", T=INT32, frame_name="endless")
    maker.op("Merge", "merge", "enter", "next", T=INT32, N=2)
    maker.const("true", np.bool_(True), "merge")
    maker.op("LoopCond", "cond", "true")
    maker.op("Switch", "switch", "merge", "cond", T=INT32)
    maker.const("one", np.int32(1), "switch")
    maker.op("AddV2", "add", "switch:1", "one", T=INT32)
    maker.op("NextIteration", "next", "add", T=INT32)
    maker.op("Exit", "exit", "switch", T=INT32)
    return maker, "exit:0"


def function_loop(body_length: int = 1) -> tuple[GraphMaker, str]:
    """Return a While whose turn has so many nodes."""
    maker = GraphMaker()
    maker.const("zero", np.int32(0))
    condition = maker.function("always", {"i": INT32}, {"more": ("true:output:0", BOOL)})
    condition.const("true", np.bool_(True))
    body = maker.function("turn", {"i": INT32}, {"j": (f"add{body_length - 1}:z:0", INT32)})
    body.const("one", np.int32(1))
    value = "i"
    for number in range(body_length):
        body.op("AddV2", f"add{number}", value, "one:output:0", T=INT32)
        value = f"add{number}:z:0"
    maker.call("StatelessWhile", "while", "zero", T=[INT32], cond=function("always"), body=function("turn"))
    return maker, "while:0"


def nested_calls() -> tuple[GraphMaker, str]:
    """Return a While inside of functions that call each other."""
    maker, _ = function_loop()
    inner = maker.function("calls0", {"i": INT32}, {"j": ("while:output:0", INT32)})
    inner.call("StatelessWhile", "while", "i", T=[INT32], cond=function("always"), body=function("turn"))
    for number in range(1, 20):
        outer = maker.function(f"calls{number}", {"i": INT32}, {"j": ("call:output:0", INT32)})
        outer.call("PartitionedCall", "call", "i", Tin=[INT32], Tout=[INT32], f=function(f"calls{number - 1}"))
    maker.call("PartitionedCall", "call", "zero", Tin=[INT32], Tout=[INT32], f=function("calls19"))
    return maker, "call:0"


def straight_line() -> tuple[GraphMaker, str]:
    """Return a line of nodes that takes minutes with 16 MiB."""
    maker = GraphMaker()
    value = maker.placeholder("x")
    for number in range(20_000):
        value = maker.op("AddV2", f"add{number}", value, "x")
    return maker, f"{value}:0"


def kernel(op: str, *inputs: str, kind: DataType = FLOAT, **attrs: Any) -> tuple[GraphMaker, str]:
    """Return a graph of one kernel."""
    maker = GraphMaker()
    for name in dict.fromkeys(inputs):
        maker.placeholder(name, INT32 if name == "dims" else kind)
    maker.op(op, "kernel", *inputs, T=kind, **attrs)
    return maker, "kernel:0"


def finished_product() -> tuple[GraphMaker, str]:
    """Return a layer, which is one kernel."""
    maker, _ = kernel("MatMul", "x", "x")
    maker.placeholder("row")
    maker.op("Relu", "relu", maker.op("BiasAdd", "biased", "kernel", "row"))
    return maker, "relu:0"


def fused_chain() -> tuple[GraphMaker, str]:
    """Return element-wise nodes that run as one kernel."""
    maker = GraphMaker()
    value = maker.placeholder("x")
    for number, op in enumerate(("Neg", "Exp", "Tanh", "Square")):
        value = maker.op(op, f"part{number}", value)
    return maker, f"{value}:0"


def loop_of_products() -> tuple[GraphMaker, str]:
    """Return a loop of frames whose turns are long."""
    maker = GraphMaker()
    maker.placeholder("x")
    maker.op("Enter", "enter", "x", frame_name="endless")
    maker.op("Merge", "merge", "enter", "next", N=2)
    maker.const("true", np.bool_(True), "merge")
    maker.op("LoopCond", "cond", "true")
    maker.op("Switch", "switch", "merge", "cond")
    maker.op("MatMul", "product", "switch:1", "switch:1")
    maker.op("NextIteration", "next", "product")
    maker.op("Exit", "exit", "switch")
    return maker, "exit:0"


def zeros(*shape: int, dtype: Any = np.float32) -> np.ndarray[Any, Any]:
    """Return zeros that take no memory until they are written."""
    return np.zeros(shape, dtype)


LOOPS: dict[str, Callable[[], tuple[GraphMaker, str]]] = {
    "frames": frames,
    "functions": function_loop,
    "long turns": lambda: function_loop(3000),
    "nested calls": nested_calls,
}
"""Steps that never end."""

LONG: dict[str, tuple[Callable[[], tuple[GraphMaker, str]], dict[str, np.ndarray[Any, Any]]]] = {
    "straight line": (straight_line, {"x:0": zeros(1 << 22)}),
    "MatMul float": (lambda: kernel("MatMul", "x", "x"), {"x:0": zeros(8192, 8192)}),
    "MatMul double": (
        lambda: kernel("MatMul", "x", "x", kind=DataType.DOUBLE),
        {"x:0": zeros(8192, 8192, dtype=np.float64)},
    ),
    "BatchMatMulV2": (lambda: kernel("BatchMatMulV2", "x", "x"), {"x:0": zeros(2000, 512, 512)}),
    "MatMul of a long inner dimension": (
        lambda: kernel("MatMul", "x", "y", transpose_b=True),
        {"x:0": zeros(500, 1 << 23), "y:0": zeros(700, 1 << 23)},
    ),
    "MatMul of a row": (
        lambda: kernel("MatMul", "x", "y"),
        {"x:0": zeros(1, 1 << 25), "y:0": zeros(1 << 25, 64)},
    ),
    "MatMul, bias and activation": (finished_product, {"x:0": zeros(8192, 8192), "row:0": zeros(8192)}),
    "Conv2D": (
        lambda: kernel("Conv2D", "x", "y", strides=[1, 1, 1, 1], padding="SAME"),
        {"x:0": zeros(64, 64, 64, 256), "y:0": zeros(5, 5, 256, 512)},
    ),
    "Conv2DBackpropInput": (
        lambda: kernel("Conv2DBackpropInput", "dims", "y", "z", strides=[1, 2, 2, 1], padding="SAME"),
        {"dims:0": np.array([64, 128, 128, 256], np.int32), "y:0": zeros(5, 5, 256, 256),
         "z:0": zeros(64, 64, 64, 256)},
    ),
    "Conv2DBackpropFilter": (
        lambda: kernel("Conv2DBackpropFilter", "x", "dims", "z", strides=[1, 2, 2, 1], padding="SAME"),
        {"x:0": zeros(512, 128, 128, 128), "dims:0": np.array([5, 5, 128, 128], np.int32),
         "z:0": zeros(512, 64, 64, 128)},
    ),
    "Conv2DBackpropFilter by Winograd's algorithm": (
        lambda: kernel("Conv2DBackpropFilter", "x", "dims", "z", strides=[1, 1, 1, 1], padding="SAME"),
        {"x:0": zeros(2000, 64, 64, 64), "dims:0": np.array([5, 5, 64, 64], np.int32), "z:0": zeros(2000, 64, 64, 64)},
    ),
    "DepthwiseConv2dNative": (
        lambda: kernel("DepthwiseConv2dNative", "x", "y", strides=[1, 1, 1, 1], padding="SAME"),
        {"x:0": zeros(1000, 128, 128, 64), "y:0": zeros(5, 5, 64, 1)},
    ),
    "DepthwiseConv2dNativeBackpropFilter": (
        lambda: kernel("DepthwiseConv2dNativeBackpropFilter", "x", "dims", "z", strides=[1, 1, 1, 1], padding="SAME"),
        {"x:0": zeros(2000, 128, 128, 64), "dims:0": np.array([5, 5, 64, 1], np.int32),
         "z:0": zeros(2000, 128, 128, 64)},
    ),
    "MaxPool": (
        lambda: kernel("MaxPool", "x", ksize=[1, 9, 9, 1], strides=[1, 1, 1, 1], padding="SAME"),
        {"x:0": zeros(1000, 128, 128, 64)},
    ),
    "element-wise kernels fused": (fused_chain, {"x:0": zeros(1 << 29)}),
    "products in a loop of frames": (loop_of_products, {"x:0": zeros(2048, 2048)}),
    "AddV2": (lambda: kernel("AddV2", "x", "x"), {"x:0": zeros(1 << 30)}),
    "AddV2 of a row": (lambda: kernel("AddV2", "x", "y"), {"x:0": zeros(1 << 16, 1 << 14), "y:0": zeros(1 << 14)}),
    "Neg": (lambda: kernel("Neg", "x"), {"x:0": zeros(1 << 30)}),
    "Sum": (
        lambda: kernel("Sum", "x", "dims", Tidx=INT32),
        {"x:0": zeros(1 << 31, 2), "dims:0": zeros(1, dtype=np.int32)},
    ),
    "Fill": (
        lambda: kernel("Fill", "dims", "value", index_type=INT32),
        {"dims:0": np.array([1 << 30], np.int32), "value:0": np.float32(1).reshape(())},
    ),
    "RandomGamma": (
        lambda: kernel("RandomGamma", "dims", "alpha", S=INT32, seed=1),
        {"dims:0": np.array([1 << 25], np.int32), "alpha:0": np.float32(2).reshape(())},
    ),
    "RandomStandardNormal": (
        lambda: kernel("RandomStandardNormal", "dims", kind=INT32, dtype=FLOAT, seed=1),
        {"dims:0": np.array([1 << 28], np.int32)},
    ),
}
"""Steps that take many times as long as a cancellation may, with their feeds."""
