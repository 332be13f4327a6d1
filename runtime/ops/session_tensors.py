"""Tensors that stay with their session under a handle, from one step to others."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from runtime._ext.errors import InvalidArgument
from runtime._ext.variable import ResourceHandle
from runtime.dtypes import DataType, base
from runtime.ops.handles import handle_array
from runtime.ops.objects import kept, object_scalar
from runtime.ops.registry import kernel
from runtime.ops.shapes import format_shape, scalar, unknown

if TYPE_CHECKING:
    from runtime.graph.node import Node
    from runtime.step.environment import KernelEnv

__all__ = ["KIND"]

KIND = "TensorHandle"
"""Type name of handles that are resources."""

Run = Callable[..., Any]


class _Tensors:
    """The tensors of a session by handle. Its methods are single dictionary operations, safe from several threads."""

    def __init__(self) -> None:
        self._numbers = itertools.count()
        self._tensors: dict[bytes, tuple[DataType, Any]] = {}

    def keep(self, kind: DataType, tensor: Any, name: str, device: str) -> bytes:
        """Keep a tensor; return its handle, whose last part clients read the device from."""
        handle = f"{name};{next(self._numbers)};{device}".encode()
        self._tensors[handle] = kind, kept(tensor)
        return handle

    def get(self, handle: bytes) -> tuple[DataType, Any]:
        found = self._tensors.get(handle)
        if found is None:
            raise InvalidArgument(f"The tensor with handle '{_text(handle)}' is not in the session store.")
        return found

    def delete(self, handle: bytes) -> None:
        if self._tensors.pop(handle, None) is None:
            raise InvalidArgument(f"Failed to delete a tensor with handle '{_text(handle)}' in the session store.")


def _text(handle: bytes) -> str:
    return handle.decode("utf-8", "replace")


def _tensors(env: KernelEnv) -> _Tensors:
    return env.session.kernel_state("", KIND, _Tensors)


def _handle(tensor: Any) -> bytes:
    if tensor.ndim:
        raise InvalidArgument(f"handle must be a scalar, got shape {format_shape(tensor.shape)}")
    found: bytes = tensor.item()
    return found


@kernel("GetSessionHandle", "GetSessionHandleV2", shape=scalar)
def get_session_handle(node: Node, env: KernelEnv) -> Run:
    tensors, kind, device = _tensors(env), base(node.input_types[0]), env.device.name
    container = env.session.resources.default_container
    is_resource = node.op == "GetSessionHandleV2"

    def run(value: Any) -> Any:
        handle = tensors.keep(kind, value, node.name, device)
        if not is_resource:
            return object_scalar(handle)
        return handle_array(ResourceHandle(device, container, handle.decode(), KIND, None))

    return run


@kernel("GetSessionTensor", shape=unknown, host=(0,))
def get_session_tensor(node: Node, env: KernelEnv) -> Run:
    tensors, wanted = _tensors(env), DataType(node.attr("dtype"))

    def run(handle: Any) -> Any:
        kind, tensor = tensors.get(_handle(handle))
        if kind != wanted:
            raise InvalidArgument(f"The tensor with handle '{_text(_handle(handle))}' is of type {kind.label}, "
                                  f"{wanted.label} is asked for")
        return tensor

    return run


@kernel("DeleteSessionTensor", host=(0,))
def delete_session_tensor(node: Node, env: KernelEnv) -> Run:
    tensors = _tensors(env)
    return lambda handle: tensors.delete(_handle(handle))
