"""Saving, restoring and merging checkpoints."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from runtime._ext.errors import InvalidArgument
from runtime.checkpoint.bundle import BundleReader, merge_bundles, write_bundle
from runtime.checkpoint.files import data_path, index_path
from runtime.checkpoint.slices import TensorSlice, parse_shape_and_slice
from runtime.dtypes import DataType
from runtime.ops.registry import kernel
from runtime.ops.shapes import format_shape

if TYPE_CHECKING:
    from runtime.graph.node import Node
    from runtime.step.environment import KernelEnv

Run = Callable[..., Any]


def _prefix(prefix: Any) -> str:
    if prefix.size != 1:
        raise InvalidArgument(f"Input prefix should have a single element, got {prefix.size} instead.")
    return os.fsdecode(prefix.reshape(-1)[0])


def _check_lists(names: Any, specs: Any, count: int) -> None:
    for what, array in (("tensor_names", names), ("shape_and_slices", specs)):
        if array.ndim != 1:
            raise InvalidArgument(f"Input {what} should be an 1-D tensor, got {format_shape(array.shape)} instead.")
        if array.size != count:
            raise InvalidArgument(f"{what} must have as many elements as there are tensors: {array.size} and {count}")


@kernel("SaveV2", host=(0, 1, 2))
def save(node: Node, env: KernelEnv) -> Run:
    types: list[DataType] = node.attr("dtypes")
    files = env.session.files
    to_host = getattr(env.xp, "asnumpy", None)

    def run(prefix: Any, names: Any, specs: Any, *tensors: Any) -> None:
        path = _prefix(prefix)
        _check_lists(names, specs, len(tensors))
        files.check(data_path(path, 0, 1))
        files.check(index_path(path))
        saved = []
        for name, spec, dtype, tensor in zip(names.tolist(), specs.tolist(), types, tensors, strict=True):
            part = _slice_of(spec.decode(), tensor.shape)
            saved.append((name, dtype, part, tensor if to_host is None else to_host(tensor)))
        write_bundle(path, saved)

    return run


def _slice_of(spec: str, shape: tuple[int, ...]) -> tuple[tuple[int, ...], TensorSlice] | None:
    """Return the whole shape and the slice that a specification says; None for a tensor that is saved whole."""
    if not spec:
        return None
    whole, part = parse_shape_and_slice(spec)
    if part.shape(whole) != shape:
        raise InvalidArgument("Slice in shape_and_slice specification does not match the shape of the tensor to  save: "
                              f"{spec}, tensor: {format_shape(shape)}")
    return whole, part


@kernel("RestoreV2", host=(0, 1, 2))
def restore(node: Node, env: KernelEnv) -> Run:
    types: list[DataType] = node.attr("dtypes")
    files, xp = env.session.files, env.xp

    def run(prefix: Any, names: Any, specs: Any) -> Any:
        _check_lists(names, specs, len(types))
        with BundleReader(_prefix(prefix), files.check) as reader:
            wanted = [_wanted(reader, name, spec.decode(), dtype)
                      for name, spec, dtype in zip(names.tolist(), specs.tolist(), types, strict=True)]
            tensors = [xp.asarray(reader.read(name, part)) for name, part in wanted]
        return tensors[0] if len(tensors) == 1 else tensors

    return run


def _wanted(reader: BundleReader, name: bytes, spec: str, dtype: DataType) -> tuple[bytes, TensorSlice | None]:
    """Check what is asked for against the checkpoint's entry, before anything is read."""
    entry = reader.entry(name)
    text = name.decode("utf-8", "replace")
    if entry.dtype != dtype:
        raise InvalidArgument(f"tensor_name = {text}; expected dtype {dtype.label} does not equal original dtype "
                              f"{entry.dtype.label}")
    if not spec:
        return name, None
    whole, part = parse_shape_and_slice(spec)
    if whole != entry.shape:
        raise InvalidArgument(f"tensor_name = {text}; shape in shape_and_slice spec {format_shape(whole)} does not "
                              f"match the shape stored in checkpoint: {format_shape(entry.shape)}")
    return name, part


@kernel("MergeV2Checkpoints", host=(0, 1))
def merge(node: Node, env: KernelEnv) -> Run:
    delete_old, allow_missing = node.attr("delete_old_dirs"), node.attr("allow_missing_files")
    files = env.session.files

    def run(prefixes: Any, destination: Any) -> None:
        if prefixes.ndim != 1:
            raise InvalidArgument(f"Input checkpoint_prefixes should be an 1-D tensor, got "
                                  f"{format_shape(prefixes.shape)} instead.")
        if destination.ndim:
            raise InvalidArgument("Input destination_prefix should be a scalar tensor, got "
                                  f"{format_shape(destination.shape)} instead.")
        sources = [os.fsdecode(prefix) for prefix in prefixes.tolist()]
        target = os.fsdecode(destination.item())
        merge_bundles(sources, target, allow_missing_files=allow_missing, allowed=files.check)
        if delete_old:
            _delete_folders(sources, os.path.dirname(target))

    return run


def _delete_folders(prefixes: Sequence[str], keep: str) -> None:
    """Remove the folders of merged checkpoints; one that is not empty, or not ours to remove, stays."""
    for folder in {os.path.dirname(prefix) for prefix in prefixes} - {keep, ""}:
        with contextlib.suppress(OSError):
            os.rmdir(folder)
