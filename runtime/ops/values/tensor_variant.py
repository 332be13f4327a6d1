"""A variant that holds one tensor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from runtime import wire
from runtime._ext.errors import InvalidArgument
from runtime._ext.tensor_codec import decode_tensor_ex, encode_tensor
from runtime.dtypes import DataType

__all__ = ["TYPE_NAME", "TensorVariant", "tensor_of"]

TYPE_NAME = "tensorflow::Tensor"


@dataclass(frozen=True, eq=False, slots=True)
class TensorVariant:
    """A tensor as the element of a variant tensor.

    Attributes
    ----------
    array : ndarray
    datatype : DataType
    """

    array: Any
    datatype: DataType

    def to_wire(self) -> bytes:
        """Return the tensor as serialised VariantTensorDataProto."""
        message = wire.VariantTensorDataProto(type_name=TYPE_NAME)
        message.tensors.add().ParseFromString(encode_tensor(self.array, self.datatype))
        return message.SerializeToString()


def tensor_of(value: Any) -> TensorVariant:
    """Return the tensor that an element of a variant tensor holds: one of ours, or its serialised form.

    Raises
    ------
    InvalidArgument
        If it holds something else.
    """
    if isinstance(value, TensorVariant):
        return value
    if isinstance(value, bytes):
        try:
            message = wire.VariantTensorDataProto.FromString(value)
        except Exception as error:
            raise InvalidArgument(f"a variant of {len(value)} bytes is no VariantTensorDataProto: {error}") from None
        if message.type_name == TYPE_NAME and len(message.tensors) == 1:
            datatype, array = decode_tensor_ex(message.tensors[0].SerializeToString())
            return TensorVariant(array, DataType(datatype))
        raise InvalidArgument(f"a variant of type '{message.type_name}' with {len(message.tensors)} tensors is no "
                              "tensor")
    raise InvalidArgument(f"a variant of type {type(value).__name__} is no tensor")
