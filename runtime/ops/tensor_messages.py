"""Tensors as the messages that ops put into their results."""

from __future__ import annotations

from typing import Any

from runtime import wire
from runtime._ext.tensor_codec import encode_tensor
from runtime.dtypes import DataType, base

__all__ = ["tensor_message"]


def tensor_message(array: Any, datatype: int) -> bytes:
    """Return a tensor as serialised TensorProto: strings one by one, everything else as plain content.

    The codec of requests packs strings into the content, too, which is shorter; what is stored or compared outside
    has always had them one by one.
    """
    if base(datatype) is not DataType.STRING:
        return encode_tensor(array, datatype)
    message = wire.TensorProto(string_val=array.reshape(-1).tolist())
    message.dtype = int(DataType.STRING)  # type: ignore[assignment]
    message.tensor_shape.SetInParent()
    for dim in array.shape:
        message.tensor_shape.dim.add().size = dim
    return bytes(message.SerializeToString())
