"""A value that may be absent, as iterators and the gradients of conditionals hand it on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from runtime import wire
from runtime._ext.errors import InvalidArgument
from runtime._ext.tensor_codec import decode_tensor_ex, encode_tensor
from runtime.dtypes import DataType
from runtime.ops.values.tensor_list import sum_of, zeros_of

__all__ = ["TYPE_NAME", "Optional"]

TYPE_NAME = "tensorflow::data::Optional"
"""How an optional is marked on the wire."""


class Optional:
    """Tensors, or nothing.

    Parameters
    ----------
    components : sequence of ndarray, or None
        None when there is no value.
    types : sequence of DataType
        Of the components.
    """

    __slots__ = ("components", "types")

    def __init__(self, components: Sequence[Any] | None = None, types: Sequence[DataType] = ()) -> None:
        self.components = None if components is None else tuple(components)
        self.types = tuple(types)

    def __repr__(self) -> str:
        return "<Optional None>" if self.components is None else f"<Optional of {len(self.components)} tensors>"

    def zeros_like(self) -> Optional:
        """Return zeros of the same shapes; of nothing, nothing."""
        if self.components is None:
            return self
        return Optional([zeros_of(tensor, kind) for tensor, kind in zip(self.components, self.types, strict=True)],
                        self.types)

    def __add__(self, other: Any) -> Optional:
        """Return the sums of the components.

        Raises
        ------
        InvalidArgument
            If only one has a value, or they differ in number, types or shapes.
        """
        if not isinstance(other, Optional):
            raise InvalidArgument(f"an optional and {type(other).__name__} cannot be added")
        if (self.components is None) != (other.components is None):
            raise InvalidArgument("Cannot add optionals because one has a value and the other doesn't.")
        if self.components is None or other.components is None:
            return self
        if len(self.components) != len(other.components):
            raise InvalidArgument("Cannot add optionals because they have different numbers of components "
                                  f"({len(self.components)} vs. {len(other.components)}).")
        if self.types != other.types:
            pair = next((a, b) for a, b in zip(self.types, other.types, strict=True) if a != b)
            raise InvalidArgument("Trying to add two tensors with incompatible element types. One is "
                                  f"{pair[0].label} and the other is {pair[1].label}")
        return Optional([sum_of(a, b) for a, b in zip(self.components, other.components, strict=True)], self.types)

    def to_wire(self) -> bytes:
        """Return the optional as serialised VariantTensorDataProto; the metadata are one byte, 1 with a value."""
        message = wire.VariantTensorDataProto(type_name=TYPE_NAME, metadata=bytes([self.components is not None]))
        for tensor, kind in zip(self.components or (), self.types, strict=False):
            message.tensors.add().ParseFromString(encode_tensor(tensor, kind))
        data: bytes = message.SerializeToString()
        return data

    @classmethod
    def from_wire(cls, data: bytes) -> Optional:
        """Return the optional that a serialised VariantTensorDataProto holds.

        Raises
        ------
        InvalidArgument
            If it is none, or is not well formed.
        """
        try:
            message = wire.VariantTensorDataProto.FromString(data)
        except Exception as error:
            raise InvalidArgument(f"a variant of {len(data)} bytes is no VariantTensorDataProto: {error}") from None
        if message.type_name != TYPE_NAME or message.metadata not in (b"\0", b"\1"):
            raise InvalidArgument(f"a variant of type '{message.type_name}' with {len(message.metadata)} bytes of "
                                  "metadata is no optional")
        if message.metadata == b"\0":
            return cls()
        decoded = [decode_tensor_ex(tensor.SerializeToString()) for tensor in message.tensors]
        return cls([array for _, array in decoded], [DataType(kind) for kind, _ in decoded])
