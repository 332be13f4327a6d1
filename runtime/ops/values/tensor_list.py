"""A list of tensors as one value, as functional loops hand it from iteration to iteration."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime import wire
from runtime._ext.errors import InvalidArgument, ResourceExhausted
from runtime._ext.tensor_chunks import CHUNK, TensorChunks, register
from runtime._ext.tensor_codec import decode_tensor_ex, encode_tensor
from runtime.dtypes import DataType
from runtime.graph.node import shape_value
from runtime.ops.objects import filled
from runtime.ops.partial_shapes import matches, merge
from runtime.ops.shapes import format_shape
from runtime.ops.state.tensor_array import MAX_ELEMENTS

if TYPE_CHECKING:
    from runtime.ops.registry import Shape

__all__ = ["TYPE_NAME", "TensorList", "check_length", "sum_of", "zeros_of"]

TYPE_NAME = "tensorflow::TensorList"
"""How a list is marked on the wire."""

_BITS = CHUNK.bit_length() - 1
_MASK = CHUNK - 1
_EMPTY: list[Any] = [None] * CHUNK


class TensorList(TensorChunks):
    """An immutable list of tensors of one type; an update makes a new list.

    The elements lie in chunks that lists share, see `runtime._ext.tensor_chunks`; compiled kernels take and make such
    lists, too.

    Parameters
    ----------
    dtype : DataType
        Of the elements.
    element_shape : shape
        What is known of all elements.
    elements : iterable of ndarray or None
        None for an element that was never set.
    max_num_elements : int
        Longest list that `push` makes; negative for no limit.

    Attributes
    ----------
    length : int
    """

    __slots__ = ()

    def __init__(self, dtype: DataType, element_shape: Shape, elements: Iterable[Any] = (),
                 max_num_elements: int = -1) -> None:
        self.dtype = dtype
        self.element_shape = element_shape
        self.max_num_elements = max_num_elements
        whole = list(elements)
        self.length = len(whole)
        self.chunks = [whole[start:start + CHUNK] for start in range(0, len(whole), CHUNK)]

    def __repr__(self) -> str:
        return f"<TensorList of {self.length} {self.dtype.label} {format_shape(self.element_shape)}>"

    def _with(self, chunks: list[list[Any]], length: int) -> TensorList:
        made = TensorList.__new__(TensorList)
        made.dtype = self.dtype
        made.element_shape = self.element_shape
        made.max_num_elements = self.max_num_elements
        made.length = length
        made.chunks = chunks
        return made

    # Reading

    def elements(self) -> Iterator[Any]:
        """Return all elements in order, None for those that were never set."""
        return chain.from_iterable(self.chunks)

    # Lists that differ a little

    def resize(self, length: int) -> TensorList:
        """Return the list cut off, or with unset elements added.

        Raises
        ------
        ResourceExhausted
            If that is longer than a list may be.
        """
        check_length(length)
        chunks = self.chunks[:(length + _MASK) >> _BITS]
        rest = length & _MASK
        if length < self.length:
            if rest:
                chunks[-1] = chunks[-1][:rest]
            return self._with(chunks, length)
        if length > self.length:
            if self.length & _MASK:
                chunks[-1] = [*chunks[-1], *_EMPTY[len(chunks[-1]):]]
            chunks += [_EMPTY] * (((length + _MASK) >> _BITS) - len(chunks))
            if rest:
                chunks[-1] = chunks[-1][:rest]
        return self._with(chunks, length)

    def extend(self, other: TensorList) -> TensorList:
        """Return the list followed by the elements of another."""
        check_length(self.length + other.length)
        return TensorList(self.dtype, self.element_shape, chain(self.elements(), other.elements()),
                          self.max_num_elements)

    def zeros_like(self) -> TensorList:
        """Return a list of zeros of the same shapes; what was never set stays unset."""
        return TensorList(self.dtype, self.element_shape,
                          (None if element is None else zeros_of(element, self.dtype) for element in self.elements()),
                          self.max_num_elements)

    def __add__(self, other: Any) -> TensorList:
        """Return the sums of the elements; unset ones count as zeros.

        Raises
        ------
        InvalidArgument
            If the lists differ in type, length or shapes.
        """
        if not isinstance(other, TensorList):
            raise InvalidArgument(f"a list of tensors and {type(other).__name__} cannot be added")
        if self.dtype != other.dtype:
            raise InvalidArgument("Trying to add two lists of tensors of different dtypes. One is "
                                  f"{self.dtype.label} and the other is {other.dtype.label}")
        if not matches(self.element_shape, other.element_shape):
            raise InvalidArgument("Trying to add two lists of tensors with incompatible element shapes. One is "
                                  f"{format_shape(self.element_shape)} and the other is "
                                  f"{format_shape(other.element_shape)}")
        if self.length != other.length:
            raise InvalidArgument("Trying to add two lists of tensors with different lengths. One is "
                                  f"{self.length} and the other is {other.length}")
        return TensorList(self.dtype, merge(self.element_shape, other.element_shape),
                          map(sum_of, self.elements(), other.elements()), self.max_num_elements)

    # The wire

    def to_wire(self) -> bytes:
        """Return the list as serialised VariantTensorDataProto.

        The metadata are numbers of seven bits a byte: how many elements were never set, their indices, the type and
        the limit; then the shape as TensorShapeProto. The elements that were set follow as tensors.
        """
        elements = list(self.elements())
        unset = [index for index, element in enumerate(elements) if element is None]
        message = wire.VariantTensorDataProto(type_name=TYPE_NAME)
        numbers = [len(unset), *unset, int(self.dtype), self.max_num_elements & 0xFFFFFFFFFFFFFFFF]
        message.metadata = b"".join(map(_varint, numbers)) + _shape_proto(self.element_shape)
        for element in elements:
            if element is not None:
                message.tensors.add().ParseFromString(encode_tensor(element, self.dtype))
        return message.SerializeToString()

    @classmethod
    def from_wire(cls, data: bytes) -> TensorList:
        """Return the list that a serialised VariantTensorDataProto holds.

        Raises
        ------
        InvalidArgument
            If it is none, or is not well formed.
        """
        try:
            message = wire.VariantTensorDataProto.FromString(data)
        except Exception as error:
            raise InvalidArgument(f"a variant of {len(data)} bytes is no VariantTensorDataProto: {error}") from None
        if message.type_name != TYPE_NAME:
            raise InvalidArgument(f"Input handle is not a list. Saw: '{message.type_name}'")
        numbers = _Varints(message.metadata)
        unset = [numbers.next() for _ in range(numbers.next())]
        kind, limit = numbers.next(), numbers.next()
        try:
            dtype = DataType(kind)
            shape = shape_value(wire.TensorShapeProto.FromString(numbers.rest()))
        except Exception as error:
            raise InvalidArgument(f"the metadata of a list of tensors tell no type and shape: {error}") from None
        total = len(message.tensors) + len(unset)
        elements: list[Any] = []
        values = iter(message.tensors)
        missing = set(unset)
        if len(missing) != len(unset) or any(index >= total for index in unset):
            raise InvalidArgument(f"the metadata of a list of {total} tensors say that {unset} are not set")
        for index in range(total):
            if index in missing:
                elements.append(None)
                continue
            found, element = decode_tensor_ex(next(values).SerializeToString())
            if found != dtype:
                raise InvalidArgument(f"element {index} of a list of {dtype.label} is of type "
                                      f"{DataType(found).label}")
            elements.append(element)
        return cls(dtype, shape, elements, limit - (1 << 64) if limit >> 63 else limit)


register(TensorList)


def check_length(length: int) -> None:
    """Check that a list may be so long.

    Raises
    ------
    ResourceExhausted
    """
    if length > MAX_ELEMENTS:
        raise ResourceExhausted(f"{length} elements are more than the {MAX_ELEMENTS} that a list of tensors may have")


def zeros_of(element: Any, dtype: DataType) -> Any:
    """Return the zeros that stand for an element's gradient or absence: as many of them, of the same shape."""
    if dtype is DataType.STRING:
        raise InvalidArgument("Trying to compute zeros_like for unsupported dtype string")
    if dtype.is_object:
        return filled(element.shape, [item.zeros_like() for item in element.reshape(-1)])
    return np.zeros_like(element)


def sum_of(left: Any, right: Any) -> Any:
    """Return the sum of two tensors of one type; None stands for zeros.

    Raises
    ------
    InvalidArgument
        If their shapes differ.
    """
    if left is None or right is None:
        return right if left is None else left
    if left.shape != right.shape:
        raise InvalidArgument("Trying to add two tensors with incompatible element shapes. One is "
                              f"{format_shape(left.shape)} and the other is {format_shape(right.shape)}")
    total = np.add(left, right)
    if left.dtype.kind == "O" and not left.ndim:
        return filled((), [total])  # the sum of two bare objects
    return total if total.ndim else np.asarray(total)


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


class _Varints:
    """Reads numbers of seven bits a byte from metadata."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    def next(self) -> int:
        number = shift = 0
        while True:
            if self._position >= len(self._data) or shift > 63:
                raise InvalidArgument(f"the metadata of a list of tensors end within a number, after "
                                      f"{self._position} bytes")
            byte = self._data[self._position]
            self._position += 1
            number |= (byte & 0x7F) << shift
            if byte < 0x80:
                return number
            shift += 7

    def rest(self) -> bytes:
        return self._data[self._position:]


def _shape_proto(shape: Shape) -> bytes:
    message = wire.TensorShapeProto()
    if shape is None:
        message.unknown_rank = True
    else:
        for dim in shape:
            message.dim.add().size = -1 if dim is None else dim
    data: bytes = message.SerializeToString()
    return data
