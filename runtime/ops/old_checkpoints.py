"""Saving and restoring in the older checkpoint format."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from runtime._ext.errors import InvalidArgument
from runtime.checkpoint.slice_files import SavedSlice, SliceFiles, write_slice_file
from runtime.checkpoint.slices import FULL, TensorSlice, parse_shape_and_slice
from runtime.dtypes import base
from runtime.ops.files.matching import matching_files
from runtime.ops.registry import kernel
from runtime.ops.shapes import format_shape, unknown

if TYPE_CHECKING:
    from runtime.graph.node import Node
    from runtime.step.environment import KernelEnv

__all__: list[str] = []

Run = Callable[..., Any]


def _one(tensor: Any, number: int, name: str) -> str:
    if tensor.size != 1:
        raise InvalidArgument(f"Input {number} ({name}) must be a string scalar; got a tensor of {tensor.size} "
                              "elements")
    return os.fsdecode(tensor.reshape(-1)[0])


@kernel("Save", "SaveSlices", host=(0, 1, 2))
def save(node: Node, env: KernelEnv) -> Run:
    files, has_slices = env.session.files, node.op == "SaveSlices"
    fixed = 3 if has_slices else 2
    types = [base(kind) for kind in node.input_types[fixed:]]
    to_host = getattr(env.xp, "asnumpy", None)

    def run(filename: Any, names: Any, *tensors: Any) -> None:
        path = _one(filename, 0, "filename")
        specs = [b""] * names.size
        if has_slices:
            if tensors[0].size != names.size:
                raise InvalidArgument(f"Expected {names.size} elements for the tensor shapes and slices but got "
                                      f"{tensors[0].size}")
            specs, tensors = tensors[0].reshape(-1).tolist(), tensors[1:]
        if names.size != len(tensors):
            raise InvalidArgument(f"Expected totally {names.size + fixed} inputs as input #1 (which is a string tensor "
                                  f"of saved names) contains {names.size} names, but received {len(tensors) + fixed} "
                                  "inputs")
        saved = []
        for name, spec, dtype, tensor in zip(names.reshape(-1).tolist(), specs, types, tensors, strict=True):
            shape, part = tensor.shape, TensorSlice(((0, FULL),) * tensor.ndim)
            if spec:
                shape, part = parse_shape_and_slice(spec.decode())
                if part.shape(shape) != tensor.shape:
                    raise InvalidArgument(
                        "Slice in shape_and_slice specification does not match the shape of the tensor to  save: "
                        f"{spec.decode()}, tensor: {format_shape(tensor.shape)}")
            saved.append(SavedSlice(name, dtype, shape, part, tensor if to_host is None else to_host(tensor)))
        write_slice_file(files.check(path), saved)

    return run


@kernel("Restore", "RestoreSlice", shape=unknown, host=(0, 1, 2))
def restore(node: Node, env: KernelEnv) -> Run:
    files, xp, wanted = env.session.files, env.xp, base(node.output_types[0])

    def run(file_pattern: Any, tensor_name: Any, *spec: Any) -> Any:
        pattern = _one(file_pattern, 0, "file_pattern")
        if not tensor_name.size:
            raise InvalidArgument("Input 1 (file_pattern) must be a have at least 1 elements")
        name: bytes = tensor_name.reshape(-1)[0]
        reader = SliceFiles([files.check(path) for path in matching_files(pattern, files.check)], pattern)
        dtype, shape = reader.entry(name)
        if dtype != wanted:
            raise InvalidArgument(f"Expected to restore a tensor of type {wanted.label}, got a tensor of type "
                                  f"{dtype.label} instead: tensor_name = {name.decode('utf-8', 'replace')}")
        part = None
        if spec and spec[0].size and spec[0].reshape(-1)[0]:
            whole, part = parse_shape_and_slice(spec[0].reshape(-1)[0].decode())
            if whole != shape:
                raise InvalidArgument("Shape in shape_and_slice spec does not match the shape in the save file: "
                                      f"{format_shape(whole)}, save file shape: {format_shape(shape)}")
        return xp.asarray(reader.read(name, part))

    return run
