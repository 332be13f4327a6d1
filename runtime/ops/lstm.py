"""LSTM layers as single ops: all time steps of a block, and their gradient.

The products of the inputs with the weights are taken for all steps at once; what goes from step to step is one product
of the hidden state. Half is computed in float32 and rounded at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from runtime._ext.errors import InvalidArgument
from runtime.dtypes import base, to_numpy
from runtime.ops.registry import Shape, kernel
from runtime.ops.shapes import format_shape

if TYPE_CHECKING:
    from runtime._ext.executor import StepContext
    from runtime.graph.node import Node
    from runtime.step.environment import KernelEnv

_GATES = {"BlockLSTM": "icfo", "BlockLSTMGrad": "icfo", "BlockLSTMV2": "ifco"}
"""The order of the gates in the columns of the weights: input, cell (the candidate), forget, output."""


def _sigmoid(xp: Any, x: Any) -> Any:
    return xp.reciprocal(xp.add(xp.exp(xp.negative(x)), 1))


def _blocks_shape(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    x, state = shapes[1], shapes[2]
    if x is None or state is None or len(x) != 3 or len(state) != 2:
        return [None] * 7
    return [(x[0], x[1], state[1])] * 7


def _check(seq_len_max: Any, x: Any, cs_prev: Any, h_prev: Any, w: Any, peepholes: Sequence[Any], b: Any) -> int:
    """Return how many steps are to be computed."""
    if seq_len_max.ndim:
        raise InvalidArgument(f"seq_len_max_tensor must be rank 0 but is rank {seq_len_max.ndim}")
    if x.ndim != 3:
        raise InvalidArgument("x must be 3D")
    steps, batch, inputs = x.shape
    for name, value in (("cs_prev", cs_prev), ("h_prev", h_prev)):
        if value.ndim != 2:
            raise InvalidArgument(f"{name} must be 2D")
        if value.shape[0] != batch:
            raise InvalidArgument(f"{name}.dims(0) != batch_size: {value.shape[0]} vs. {batch}")
    cells = cs_prev.shape[1]
    if h_prev.shape[1] != cells:
        raise InvalidArgument(f"h_prev.dims(1) != cell_size: {h_prev.shape[1]} vs. {cells}")
    if w.ndim != 2:
        raise InvalidArgument("w must be 2D")
    if w.shape[0] != inputs + cells:
        raise InvalidArgument(f"w.dim_size(0) != input_size + cell_size: {w.shape[0]} vs. {inputs + cells}")
    if w.shape[1] != cells * 4:
        raise InvalidArgument(f"w.dim_size(1) != cell_size * 4: {w.shape[1]} vs. {cells * 4}")
    for name, value in zip(("wci", "wcf", "wco"), peepholes, strict=True):
        if value.shape != (cells,):
            raise InvalidArgument(f"{name}.dims(0) != cell_size: {format_shape(value.shape)} vs. {cells}")
    if b.ndim != 1 or b.shape[0] != cells * 4:
        raise InvalidArgument(f"b.dim_size(0) != cell_size * 4: {format_shape(b.shape)} vs. {cells * 4}")
    count = int(seq_len_max)
    if count < 0 or count > steps:
        raise InvalidArgument(f"seq_len_max is {count}; x has {steps} steps")
    return count


@kernel("BlockLSTM", "BlockLSTMV2", shape=_blocks_shape, host=(0,), needs_step=True)
def _block_lstm(node: Node, env: KernelEnv) -> Callable[..., Any]:
    xp = env.xp
    dtype = to_numpy(base(node.output_types[0]))
    gates = _GATES[node.op]
    forget_bias = float(node.attr("forget_bias")) if node.op == "BlockLSTM" else 0.0
    clip, peephole = float(node.attr("cell_clip")), bool(node.attr("use_peephole"))

    def run(step: StepContext, seq_len_max: Any, *tensors: Any) -> Any:
        x, cs, h, w, wci, wcf, wco, b = tensors
        count = _check(seq_len_max, x, cs, h, w, (wci, wcf, wco), b)
        x, cs, h, w, wci, wcf, wco, b = (value.astype(xp.float32, copy=False) for value in tensors)
        steps, batch, inputs = x.shape
        cells = cs.shape[1]
        results = [xp.zeros((steps, batch, cells), xp.float32) for _ in range(7)]
        from_inputs = xp.matmul(x[:count].reshape(-1, inputs), w[:inputs]).reshape(count, batch, -1) + b
        places = {gate: slice(i * cells, (i + 1) * cells) for i, gate in enumerate(gates)}
        for time in range(count):
            step.check()
            total = from_inputs[time] + xp.matmul(h, w[inputs:])
            into, forget, out = total[:, places["i"]], total[:, places["f"]] + forget_bias, total[:, places["o"]]
            if peephole:
                into, forget = into + cs * wci, forget + cs * wcf
            i, f, ci = _sigmoid(xp, into), _sigmoid(xp, forget), xp.tanh(total[:, places["c"]])
            cs = ci * i + cs * f
            if clip > 0:
                cs = xp.clip(cs, -clip, clip)
            if peephole:
                out = out + cs * wco
            o, co = _sigmoid(xp, out), xp.tanh(cs)
            h = co * o
            for result, value in zip(results, (i, cs, f, o, ci, co, h), strict=True):
                result[time] = value
        return [result.astype(dtype, copy=False) for result in results]

    return run


def _grad_shape(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    return [shapes[place] for place in range(1, 9)]


@kernel("BlockLSTMGrad", shape=_grad_shape, host=(0,), needs_step=True)
def _block_lstm_grad(node: Node, env: KernelEnv) -> Callable[..., Any]:
    xp = env.xp
    dtype = to_numpy(base(node.output_types[0]))
    gates = _GATES[node.op]
    peephole = bool(node.attr("use_peephole"))

    def run(step: StepContext, seq_len_max: Any, *tensors: Any) -> Any:
        x, cs_prev, h_prev, w = tensors[:4]
        count = _check(seq_len_max, x, cs_prev, h_prev, w, tensors[4:7], tensors[7])
        x, cs_prev, h_prev, w, wci, wcf, wco, b, *blocks = (value.astype(xp.float32, copy=False) for value in tensors)
        steps, batch, inputs = x.shape
        cells = cs_prev.shape[1]
        for value in blocks:
            if value.shape != (steps, batch, cells):
                raise InvalidArgument(f"the results of the steps and their gradients must have the shape "
                                      f"{format_shape((steps, batch, cells))}, got {format_shape(value.shape)}")
        i, cs, f, o, ci, co, h, cs_grad, h_grad = blocks
        slopes = xp.zeros((count, batch, 4 * cells), xp.float32)
        places = {gate: slice(k * cells, (k + 1) * cells) for k, gate in enumerate(gates)}
        to_cells, to_hidden = xp.zeros_like(cs_prev), xp.zeros_like(h_prev)
        peepholes = [xp.zeros_like(wci) for _ in range(3)]
        for time in range(count - 1, -1, -1):
            step.check()
            former = cs[time - 1] if time else cs_prev
            of_hidden = h_grad[time] + to_hidden
            slope_o = o[time] * (1 - o[time]) * of_hidden * co[time]
            of_cells = (1 - co[time] * co[time]) * of_hidden * o[time] + cs_grad[time] + to_cells
            if peephole:
                of_cells = of_cells + slope_o * wco
            slope_c = (1 - ci[time] * ci[time]) * of_cells * i[time]
            slope_f = f[time] * (1 - f[time]) * of_cells * former
            slope_i = i[time] * (1 - i[time]) * of_cells * ci[time]
            for gate, slope in (("i", slope_i), ("c", slope_c), ("f", slope_f), ("o", slope_o)):
                slopes[time][:, places[gate]] = slope
            to_cells = of_cells * f[time]
            if peephole:
                to_cells = to_cells + slope_i * wci + slope_f * wcf
                for total, slope, value in zip(peepholes, (slope_i, slope_f, slope_o), (former, former, cs[time]),
                                               strict=True):
                    total += (slope * value).sum(axis=0)
            to_hidden = xp.matmul(slopes[time], w[inputs:].T)
        flat = slopes.reshape(count * batch, -1)
        x_grad = xp.zeros_like(x)
        x_grad[:count] = xp.matmul(flat, w[:inputs].T).reshape(count, batch, inputs)
        hidden = xp.concatenate((h_prev[None], h[:max(count - 1, 0)]))[:count].reshape(count * batch, cells)
        w_grad = xp.concatenate((xp.matmul(x[:count].reshape(count * batch, inputs).T, flat),
                                 xp.matmul(hidden.T, flat)))
        results = (x_grad, to_cells, to_hidden, w_grad, *peepholes, flat.sum(axis=0))
        return [result.astype(dtype, copy=False) for result in results]

    return run
