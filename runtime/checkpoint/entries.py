"""The records of a checkpoint's table: a header, and for each tensor where its data lies."""

from __future__ import annotations

from dataclasses import dataclass, field

from runtime import wire
from runtime._ext.errors import DataLoss, Unimplemented
from runtime.checkpoint.fields import bytes_field, fixed32_field, read_fields, varint_field
from runtime.checkpoint.slices import TensorSlice
from runtime.dtypes import DataType

__all__ = ["HEADER_KEY", "Entry", "Header"]

HEADER_KEY = b""
_VERSION = 1
_LITTLE_ENDIAN = 0


@dataclass(slots=True)
class Header:
    """How many data files there are."""

    num_shards: int = 1

    def encode(self) -> bytes:
        """Return the record: shards 1, byte order 2 (little is the default), version 3 (producer 1)."""
        return varint_field(1, self.num_shards) + bytes_field(3, varint_field(1, _VERSION))

    @classmethod
    def decode(cls, data: bytes) -> Header:
        """Read the record.

        Raises
        ------
        Unimplemented
            If the data is big-endian or needs a newer reader.
        """
        header = cls(0)
        for number, value in read_fields(data):
            if number == 1 and isinstance(value, int):
                header.num_shards = value
            elif number == 2 and value != _LITTLE_ENDIAN:
                raise Unimplemented("the checkpoint is big-endian; write it again on a little-endian machine")
            elif number == 3 and isinstance(value, bytes):
                needed = next((item for field_number, item in read_fields(value) if field_number == 2), 0)
                if isinstance(needed, int) and needed > _VERSION:
                    raise Unimplemented(f"the checkpoint needs a reader of version {needed}, this one is {_VERSION}")
        return header


@dataclass(slots=True)
class Entry:
    """One tensor, or one part of one.

    Attributes
    ----------
    dtype : DataType
    shape : tuple of int
    shard, offset, size : int
        Data file, and where in it, in bytes.
    checksum : int
        Masked CRC-32C of the data.
    slices : list of TensorSlice
        The parts that make up a tensor which was saved in parts; its own data fields mean nothing then.
    """

    dtype: DataType
    shape: tuple[int, ...]
    shard: int = 0
    offset: int = 0
    size: int = 0
    checksum: int = 0
    slices: list[TensorSlice] = field(default_factory=list)

    def encode(self) -> bytes:
        """Return the record: fields dtype 1, shape 2, shard 3, offset 4, size 5, checksum 6, slices 7."""
        shape = wire.TensorShapeProto()
        for dim in self.shape:
            shape.dim.add().size = dim
        return b"".join((
            varint_field(1, int(self.dtype)), bytes_field(2, shape.SerializeToString()), varint_field(3, self.shard),
            varint_field(4, self.offset), varint_field(5, self.size), fixed32_field(6, self.checksum),
            *(bytes_field(7, part.to_proto()) for part in self.slices)))

    @classmethod
    def decode(cls, data: bytes) -> Entry:
        """Read the record.

        Raises
        ------
        DataLoss
            If it is malformed.
        """
        numbers = {1: 0, 3: 0, 4: 0, 5: 0, 6: 0}
        shape: tuple[int, ...] = ()
        slices: list[TensorSlice] = []
        for number, value in read_fields(data):
            if isinstance(value, int):
                numbers[number] = value
            elif number == 2:
                shape = tuple(dim.size for dim in wire.TensorShapeProto.FromString(value).dim)
            elif number == 7:
                slices.append(TensorSlice.from_proto(value))
        try:
            dtype = DataType(numbers[1])
        except ValueError:
            raise DataLoss(f"an entry has the unknown data type {numbers[1]}") from None
        if min(shape, default=0) < 0:
            raise DataLoss(f"an entry has the shape {shape}")
        return cls(dtype, shape, numbers[3], numbers[4], numbers[5], numbers[6], slices)
