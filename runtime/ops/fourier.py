"""Discrete Fourier transforms over the last one, two or three dimensions.

The array namespace transforms single precision in single precision.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from runtime._ext.errors import InvalidArgument
from runtime.dtypes import base, to_numpy
from runtime.ops.registry import Shape, kernel
from runtime.ops.shapes import format_shape, like_input

if TYPE_CHECKING:
    from runtime.graph.node import Node
    from runtime.step.environment import KernelEnv

_RANKS = {"": 1, "2D": 2, "3D": 3}


def _check_rank(value: Any, rank: int) -> None:
    if value.ndim < rank:
        raise InvalidArgument(f"Input must have rank of at least {rank} but got: {format_shape(value.shape)}")


@kernel(*(f"{op}{suffix}" for op in ("FFT", "IFFT") for suffix in _RANKS), shape=like_input())
def _complex(node: Node, env: KernelEnv) -> Callable[..., Any]:
    rank = _RANKS[node.op.removeprefix("I").removeprefix("FFT")]
    transform = env.xp.fft.ifftn if node.op.startswith("I") else env.xp.fft.fftn
    axes = tuple(range(-rank, 0))
    dtype = to_numpy(base(node.output_types[0]))

    def run(value: Any) -> Any:
        _check_rank(value, rank)
        return transform(value, axes=axes).astype(dtype, copy=False) if value.size else value

    return run


def _real_shape(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    rank = _rank_of_real(node.op)
    shape = shapes[0]
    return [None if shape is None or len(shape) < rank else (*shape[:len(shape) - rank], *(None,) * rank)]


def _rank_of_real(op: str) -> int:
    return _RANKS[op.removeprefix("I").removeprefix("RFFT")]


@kernel(*(f"{op}{suffix}" for op in ("RFFT", "IRFFT") for suffix in _RANKS), shape=_real_shape, host=(1,))
def _real(node: Node, env: KernelEnv) -> Callable[..., Any]:
    """Transform real values to the half of the spectrum that tells all of it, or back."""
    xp = env.xp
    rank, inverse = _rank_of_real(node.op), node.op.startswith("I")
    axes = tuple(range(-rank, 0))
    dtype = to_numpy(base(node.output_types[0]))

    def run(value: Any, fft_length: Any) -> Any:
        _check_rank(value, rank)
        if fft_length.shape != (rank,):
            raise InvalidArgument(f"fft_length must have shape [{rank}]")
        lengths = fft_length.tolist()
        for place, length in enumerate(lengths):
            if length < 0:
                raise InvalidArgument(f"fft_length[{place}] must >= 0, but got: {length}")
        outer = value.shape[:-rank]
        halved = (*lengths[:-1], lengths[-1] // 2 + 1)
        needed = halved if inverse else lengths
        for place, length in enumerate(needed, len(outer)):
            if value.shape[place] and value.shape[place] < length:
                raise InvalidArgument(f"Input dimension {place} must have length of at least {length} but got: "
                                      f"{value.shape[place]}")
        if 0 in value.shape or 0 in lengths:
            return xp.zeros((*outer, *(lengths if inverse else halved)), dtype)
        used = value[(..., *(slice(0, length) for length in needed))]
        result = xp.fft.irfftn(used, lengths, axes) if inverse else xp.fft.rfftn(used, lengths, axes)
        return result.astype(dtype, copy=False)

    return run
