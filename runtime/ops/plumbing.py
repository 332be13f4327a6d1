"""Constants, placeholders, identities, assertions and printing."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime._ext.errors import InvalidArgument
from runtime.dtypes import base
from runtime.graph.node import shape_value
from runtime.graph.validate import type_label
from runtime.ops.registry import Shape, kernel
from runtime.ops.shapes import format_shape, like_input, scalar
from runtime.ops.summarize import summarize

if TYPE_CHECKING:
    from runtime.graph.node import Node
    from runtime.step.environment import KernelEnv

logger = logging.getLogger(__name__)


def _const_shape(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    return [shape_value(node.attr("value").tensor_shape)]


@kernel("Const", shape=_const_shape)
def _const(node: Node, env: KernelEnv) -> Callable[..., Any]:
    from runtime._ext.tensor_codec import decode_tensor_ex

    kind, decoded = decode_tensor_ex(node.attr("value").SerializeToString())
    if kind != node.output_types[0]:
        raise InvalidArgument(
            f"Type mismatch between value ({type_label(kind)}) and dtype ({type_label(node.output_types[0])})"
        )
    value = env.xp.asarray(decoded)
    return lambda: value


def _declared_shape(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    return [node.attr("shape")]


def _placeholder_shape(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    # A scalar in the attr is how old clients say that they do not know: a feed of any shape is taken.
    return [node.attr("shape") or None]


@kernel("PlaceholderV2", shape=_declared_shape)
@kernel("Placeholder", shape=_placeholder_shape)
def _placeholder(node: Node, env: KernelEnv) -> Callable[..., Any]:
    shape = node.attr("shape")
    text = f"You must feed a value for placeholder tensor '{node.name}' with dtype {base(node.output_types[0]).label}"
    if shape:
        text += f" and shape {format_shape(shape)}"

    def run() -> Any:
        raise InvalidArgument(text)

    return run


@kernel("PlaceholderWithDefault", shape=_declared_shape)
@kernel("Identity", "StopGradient", "PreventGradient", "Snapshot", "GuaranteeConst", shape=like_input())
def _identity(node: Node, env: KernelEnv) -> Callable[..., Any]:
    return lambda value: value


@kernel("DeepCopy", shape=like_input())
def _deep_copy(node: Node, env: KernelEnv) -> Callable[..., Any]:
    return lambda value: value.copy()


@kernel("Timestamp", shape=scalar)
def _timestamp(node: Node, env: KernelEnv) -> Callable[..., Any]:
    return lambda: np.float64(time.time())


@kernel("IdentityN", shape=lambda node, shapes: shapes)
def _identity_n(node: Node, env: KernelEnv) -> Callable[..., Any]:
    if len(node.output_types) == 1:
        return lambda value: value
    return lambda *values: values


@kernel("NoOp", "ControlTrigger", shape=lambda node, shapes: [])
def _no_op(node: Node, env: KernelEnv) -> Callable[..., Any]:
    return lambda: None


@kernel("Assert", shape=lambda node, shapes: [], host=(0,))
def _assert(node: Node, env: KernelEnv) -> Callable[..., Any]:
    count = int(node.attr("summarize"))
    kinds = [base(kind) for kind in node.input_types[1:]]

    def run(condition: Any, *data: Any) -> None:
        if condition.ndim or not condition:
            if condition.ndim:
                raise InvalidArgument(f"In[0] should be a scalar: {format_shape(condition.shape)}")
            values = " ".join(f"[{summarize(value, kind, count)}]" for value, kind in zip(data, kinds))
            raise InvalidArgument(f"assertion failed: {values}")

    return run


@kernel("Print", shape=lambda node, shapes: [shapes[0]])
def _print(node: Node, env: KernelEnv) -> Callable[..., Any]:
    message = node.attr("message").decode("utf-8", "replace")
    count = int(node.attr("summarize"))
    first_n = int(node.attr("first_n"))
    kinds = [base(kind) for kind in node.input_types[1:]]
    calls = env.session.kernel_state(env.path + node.name, node.op, lambda: [0])

    def run(value: Any, *data: Any) -> Any:
        if first_n >= 0:
            if calls[0] >= first_n:
                return value
            calls[0] += 1
        values = "".join(f"[{summarize(item, kind, count)}]" for item, kind in zip(data, kinds))
        sys.stderr.write(f"{message}{values}\n")
        return value

    return run


_LOG_LEVELS = {
    "log(info)": logging.INFO,
    "log(warning)": logging.WARNING,
    "log(error)": logging.ERROR,
}


@kernel("PrintV2", shape=lambda node, shapes: [], host=(0,))
def _print_v2(node: Node, env: KernelEnv) -> Callable[..., Any]:
    stream = node.attr("output_stream").decode("utf-8", "replace")
    end = node.attr("end").decode("utf-8", "replace")
    level = _LOG_LEVELS.get(stream)
    path = None
    if stream.startswith("file://"):
        path = env.session.files.check(stream.removeprefix("file://"))
    elif level is None and stream not in ("stdout", "stderr"):
        names = ", ".join(["stdout", "stderr", *_LOG_LEVELS])
        raise InvalidArgument(f"Unknown output stream: {stream}; known are {names} and file:// with a path")

    def run(text: Any) -> None:
        if text.ndim:
            raise InvalidArgument(f"Input is expected to be scalar, but got {format_shape(text.shape)}")
        line = text.item().decode("utf-8", "replace") + end
        if path is not None:
            with open(path, "a", encoding="utf-8") as file:
                file.write(line)
        elif level is not None:
            logger.log(level, "%s", line.rstrip("\n"))
        else:
            # Looked up at every run: whoever replaces the stream means these lines too.
            (sys.stdout if stream == "stdout" else sys.stderr).write(line)

    return run


@kernel("CheckNumerics", shape=like_input())
def _check_numerics(node: Node, env: KernelEnv) -> Callable[..., Any]:
    xp = env.xp
    message = node.attr("message").decode("utf-8", "replace")

    def run(tensor: Any) -> Any:
        if not xp.isfinite(tensor).all():
            has_nan = bool(xp.isnan(tensor).any())
            has_inf = bool(xp.isinf(tensor).any())
            found = "Inf and NaN" if has_nan and has_inf else "NaN" if has_nan else "Inf"
            raise InvalidArgument(f"{message} : Tensor had {found} values")
        return tensor

    return run


