"""The one registry of ops: what runs a node, and what shape its answer has.

A family module registers kernels with `kernel`::

    @kernel("Reshape", shape=_reshape_shape, host=(1,))
    def reshape(node, env):
        xp = env.xp
        def run(tensor, shape):
            return tensor.reshape(...)
        return run

The decorated function *binds*: it is called once per node when a step is compiled, reads attrs there, and returns what
is called at every run. The contract of that callable:

- it gets the inputs as ndarrays of ``env.xp`` (reference inputs as `runtime._ext.variable.Variable`, inputs named in
  `host` always as numpy arrays) and must not change them;
- it returns an array for one output (a numpy scalar is fine), None for no output, and a sequence with exactly one
  entry per output otherwise; each of the declared dtype. A result may be a view of an input;
- with ``needs_step=True`` the running `StepContext` comes first;
- with ``asynchronous=True`` it is called ``run(step, done, *inputs)``, must return at once, and calls
  ``done(result, None)`` or ``done(None, error)`` exactly once, from any thread;
- with ``transfer=True`` it is asynchronous and called ``run(step, done, where, is_dead, *inputs)``, in a dead branch as
  well, and then without inputs; ``where`` is the frame and iteration as text. It may complete with ``DEAD_VALUE``;
- it raises the errors of `runtime.errors`; the executor adds the node's name.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from runtime._ext.errors import InvalidArgument

if TYPE_CHECKING:
    from runtime.graph.node import Node
    from runtime.step.environment import KernelEnv

__all__ = ["FAMILIES", "Kernel", "Shape", "elementwise", "find", "kernel", "load", "registered"]

Shape = tuple[int | None, ...] | None
"""Static shape: None for an unknown dimension, or None altogether for an unknown rank."""

ShapeFn = Callable[["Node", Sequence[Shape]], Sequence[Shape]]
Bind = Callable[["Node", "KernelEnv"], Callable[..., Any]]

FAMILIES = (
    "runtime.ops.plumbing",
    "runtime.ops.arrays",
    "runtime.ops.joining",
    "runtime.ops.slicing",
    "runtime.ops.indexing",
    "runtime.ops.padding",
    "runtime.ops.sequences",
    "runtime.ops.counting",
    "runtime.ops.elementwise",
    "runtime.ops.unary",
    "runtime.ops.special_kernels",
    "runtime.ops.bits",
    "runtime.ops.searching",
    "runtime.ops.quantization",
    "runtime.ops.reductions",
    "runtime.ops.linalg",
    "runtime.ops.einsum",
    "runtime.ops.space_blocks",
    "runtime.ops.resizing",
    "runtime.ops.crop_gradients",
    "runtime.ops.patches",
    "runtime.ops.colours",
    "runtime.ops.boxes",
    "runtime.ops.random_crops",
    "runtime.ops.image_files",
    "runtime.ops.ctc",
    "runtime.ops.lstm",
    "runtime.ops.sdca",
    "runtime.ops.diagonals",
    "runtime.ops.decompositions",
    "runtime.ops.factorizations",
    "runtime.ops.fourier",
    "runtime.ops.nn",
    "runtime.ops.convolution",
    "runtime.ops.convolution_3d",
    "runtime.ops.depthwise",
    "runtime.ops.pooling",
    "runtime.ops.pooling_3d",
    "runtime.ops.pooling_argmax",
    "runtime.ops.fractional_pooling",
    "runtime.ops.normalization",
    "runtime.ops.variables",
    "runtime.ops.scatters",
    "runtime.ops.scatter_nd",
    "runtime.ops.slice_updates",
    "runtime.ops.optimizers",
    "runtime.ops.random",
    "runtime.ops.random_distributions",
    "runtime.ops.truncated_normal",
    "runtime.ops.candidate_sampling",
    "runtime.ops.segments",
    "runtime.ops.sparse_segments",
    "runtime.ops.sparse_tensors",
    "runtime.ops.sparse_math",
    "runtime.ops.sparse_serialization",
    "runtime.ops.sparse_cross",
    "runtime.ops.sparse_maps",
    "runtime.ops.example_parsing",
    "runtime.ops.sequence_parsing",
    "runtime.ops.parsing",
    "runtime.ops.uniques",
    "runtime.ops.control_flow",
    "runtime.ops.transfers",
    "runtime.ops.collectives",
    "runtime.ops.functional",
    "runtime.ops.queues",
    "runtime.ops.tables",
    "runtime.ops.accumulators",
    "runtime.ops.readers",
    "runtime.ops.barriers",
    "runtime.ops.staging",
    "runtime.ops.vocabularies",
    "runtime.ops.mutexes",
    "runtime.ops.session_tensors",
    "runtime.ops.elsewhere",
    "runtime.ops.tensor_lists",
    "runtime.ops.tensor_list_slices",
    "runtime.ops.tensor_arrays",
    "runtime.ops.optionals",
    "runtime.ops.datasets.sources",
    "runtime.ops.datasets.record_files",
    "runtime.ops.datasets.csv_files",
    "runtime.ops.datasets.generators",
    "runtime.ops.datasets.mapping",
    "runtime.ops.datasets.parallel_mapping",
    "runtime.ops.datasets.parsing",
    "runtime.ops.datasets.flattening",
    "runtime.ops.datasets.batching",
    "runtime.ops.datasets.grouping",
    "runtime.ops.datasets.selection",
    "runtime.ops.datasets.settings",
    "runtime.ops.datasets.shuffling",
    "runtime.ops.datasets.seeds",
    "runtime.ops.datasets.buffering",
    "runtime.ops.datasets.iterators",
    "runtime.ops.datasets.reduction",
    "runtime.ops.checkpoints",
    "runtime.ops.old_checkpoints",
    "runtime.ops.summaries",
    "runtime.ops.media_summaries",
    "runtime.ops.strings",
    "runtime.ops.string_conversions",
    "runtime.ops.text_forms",
    "runtime.ops.unicode",
    "runtime.ops.sets",
    "runtime.ops.ragged",
    "runtime.ops.ragged_variants",
)
"""Modules that register kernels; a new family is added here and nowhere else."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """How one op type runs.

    Attributes
    ----------
    op : str
    bind : callable
        ``bind(node, env)`` returns what is called at every run.
    shape : callable or None
        ``shape(node, input_shapes)`` returns one static shape per output; None when nothing is known.
    host : tuple of int
        Inputs that are read on the host (shapes, axes, sizes); negative numbers count from the end.
    needs_step, asynchronous, transfer : bool
        See the module's description.
    """

    op: str
    bind: Bind
    shape: ShapeFn | None = None
    host: tuple[int, ...] = ()
    needs_step: bool = False
    asynchronous: bool = False
    transfer: bool = False


_KERNELS: dict[str, Kernel] = {}
_loaded = False


def kernel(*ops: str, shape: ShapeFn | None = None, host: tuple[int, ...] = (), needs_step: bool = False,
           asynchronous: bool = False, transfer: bool = False) -> Callable[[Bind], Bind]:
    """Register the decorated bind function for one or more op types."""

    def register(bind: Bind) -> Bind:
        for op in ops:
            if op in _KERNELS:
                raise ValueError(f"op {op} is registered twice: {_KERNELS[op].bind.__module__}, {bind.__module__}")
            _KERNELS[op] = Kernel(op, bind, shape, host, needs_step, asynchronous or transfer, transfer)
        return bind

    return register


def elementwise(op: str, function: Callable[[Any], Callable[..., Any]], shape: ShapeFn | None = None) -> None:
    """Register an op that is one function of the array namespace, whatever the node's attrs.

    Parameters
    ----------
    function : callable
        ``function(xp)`` returns the callable of the arrays, for example ``lambda xp: xp.add``.
    """
    kernel(op, shape=shape)(lambda node, env: function(env.xp))


def load() -> None:
    """Import every family module (once)."""
    global _loaded
    if not _loaded:
        for module in FAMILIES:
            importlib.import_module(module)
        _loaded = True


def find(op: str) -> Kernel:
    """Return the kernel of an op type.

    Raises
    ------
    InvalidArgument
        If no kernel is registered for it.
    """
    load()
    found = _KERNELS.get(op)
    if found is None:
        raise InvalidArgument(
            f"No OpKernel was registered to support Op '{op}'; `tensor-runtime ops` lists those that run here"
        )
    return found


def registered() -> dict[str, Kernel]:
    """Return every registered kernel by op type."""
    load()
    return dict(_KERNELS)
