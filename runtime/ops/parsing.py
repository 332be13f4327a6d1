"""Tensors from text and bytes: serialised tensors, raw numbers, rows of CSV, Examples written as JSON."""

from __future__ import annotations

import base64
import binascii
import json
import struct
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime._ext.errors import InvalidArgument
from runtime._ext.tensor_codec import decode_tensor_ex
from runtime.checkpoint.fields import bytes_field, varint
from runtime.dtypes import DataType, base, to_numpy
from runtime.ops.objects import filled, map_objects, object_scalar
from runtime.ops.registry import kernel
from runtime.ops.shapes import format_shape, like_input, scalar, unknown
from runtime.ops.tensor_messages import tensor_message
from runtime.ops.transfer import as_numpy

if TYPE_CHECKING:
    from runtime.graph.node import Node
    from runtime.ops.registry import Shape
    from runtime.step.environment import KernelEnv

__all__ = ["csv_number"]

Run = Callable[..., Any]


# Serialised tensors


@kernel("SerializeTensor", shape=scalar)
def _serialize_tensor(node: Node, env: KernelEnv) -> Run:
    xp, kind = env.xp, base(node.input_types[0])
    return lambda tensor: object_scalar(tensor_message(as_numpy(xp, tensor), kind))


@kernel("ParseTensor", shape=unknown, host=(0,))
def _parse_tensor(node: Node, env: KernelEnv) -> Run:
    xp, wanted = env.xp, base(node.attr("out_type"))

    def run(serialized: Any) -> Any:
        if serialized.ndim:
            raise InvalidArgument("Expected `serialized` to be a scalar, got shape: "
                                  f"{format_shape(serialized.shape)}")
        text = serialized.item()
        try:
            kind, array = decode_tensor_ex(text)
        except InvalidArgument as error:
            raise InvalidArgument(f"Could not parse `serialized` as TensorProto: {error.message}") from None
        if kind != wanted:
            raise InvalidArgument(f"Type mismatch between parsed tensor ({DataType(kind).label}) and dtype "
                                  f"({wanted.label})")
        return array if array.dtype.kind == "O" else xp.asarray(array)

    return run


# Raw numbers


def _file_type(node: Node) -> tuple[Any, Any, bool]:
    """Return the dtype of a node's output, that of the bytes it reads, and whether their order is turned round."""
    dtype = to_numpy(node.attr("out_type"))
    swapped = not node.attr("little_endian") and dtype.itemsize > 1
    return dtype, np.dtype(np.uint8) if dtype.kind == "b" else dtype, swapped


def _numbers(data: bytes, dtype: Any, swapped: bool) -> Any:
    """Return the numbers that bytes hold, as a new array."""
    if not swapped:
        return np.frombuffer(data, dtype)
    width = dtype.itemsize // 2 if dtype.kind == "c" else dtype.itemsize
    return np.frombuffer(np.frombuffer(data, f"u{width}").byteswap().tobytes(), dtype)


@kernel("DecodeRaw", shape=lambda node, shapes: [None if shapes[0] is None else (*shapes[0], None)])
def _decode_raw(node: Node, env: KernelEnv) -> Run:
    xp, (dtype, stored, swapped) = env.xp, _file_type(node)

    def run(texts: Any) -> Any:
        items = texts.reshape(-1).tolist()
        size = len(items[0]) if items else 0
        for number, item in enumerate(items):
            if len(item) != size:
                raise InvalidArgument("DecodeRaw requires input strings to all be the same size, but element "
                                      f"{number} has size {size} != {len(item)}")
        if size % dtype.itemsize:
            raise InvalidArgument(f"Input to DecodeRaw has length {size} that is not a multiple of {dtype.itemsize}, "
                                  f"the size of {base(node.attr('out_type')).label}")
        found = _numbers(items[0] if len(items) == 1 else b"".join(items), stored, swapped)
        if dtype.kind == "b":
            found = found != 0
        return xp.asarray(found.reshape(*texts.shape, size // dtype.itemsize))

    return run


@kernel("DecodePaddedRaw", shape=lambda node, shapes: [None if shapes[0] is None else (*shapes[0], None)], host=(1,))
def _decode_padded_raw(node: Node, env: KernelEnv) -> Run:
    xp, (dtype, stored, swapped) = env.xp, _file_type(node)

    def run(texts: Any, fixed_length: Any) -> Any:
        if fixed_length.ndim:
            raise InvalidArgument(f"k must be scalar, got shape {format_shape(fixed_length.shape)}")
        length = int(fixed_length)
        if length <= 0:
            raise InvalidArgument(f"fixed_length ({length}) must be greater than zero.")
        if length % dtype.itemsize:
            raise InvalidArgument(f"fixed_length ({length}) must be a multiple of the size of out_type "
                                  f"({dtype.itemsize})")
        count = texts.size
        data = np.zeros((count, length), np.uint8)
        for row, item in zip(data, texts.reshape(-1).tolist(), strict=True):
            row[:len(item)] = np.frombuffer(item[:length], np.uint8)
        found = _numbers(data.tobytes(), stored, swapped)
        return xp.asarray(found.reshape(*texts.shape, length // dtype.itemsize))

    return run


# CSV


class _Splitter:
    """Cuts a record into fields: RFC 4180, but for line ends between fields, which are stepped over."""

    def __init__(self, delimiter: bytes, quotes: bool, selected: Sequence[int]) -> None:
        self._delimiter = delimiter
        self._quotes = quotes
        self._selected = selected
        self._last = selected[-1] if selected else None

    def __call__(self, record: bytes) -> list[bytes]:
        if not record:
            return []
        if b"\n" in record or b"\r" in record or (self._quotes and b'"' in record):
            fields = self._split_slowly(record)
        else:
            fields = record.split(self._delimiter)
        if self._last is None:
            return fields
        return [fields[place] for place in self._selected if place < len(fields)]

    def _split_slowly(self, record: bytes) -> list[bytes]:
        delimiter, position, end = self._delimiter, 0, len(record)
        fields: list[bytes] = []
        while position < end:
            if record[position] in b"\r\n":
                position += 1
                continue
            if self._quotes and record[position] == 0x22:
                text, position = self._quoted(record, position + 1)
            else:
                stop = record.find(delimiter, position)
                stop = end if stop < 0 else stop
                text = record[position:stop]
                if b"\n" in text or b"\r" in text or (self._quotes and b'"' in text):
                    raise InvalidArgument("Unquoted fields cannot have quotes/CRLFs inside")
                position = stop + 1
            fields.append(text)
            if self._last is not None and len(fields) > self._last:
                return fields
        if record.endswith(delimiter):
            fields.append(b"")
        return fields

    def _quoted(self, record: bytes, position: int) -> tuple[bytes, int]:
        """Return a field whose opening quote has been read, and where the next one begins."""
        parts, end = [], len(record)
        while True:
            quote = record.find(b'"', position)
            if quote < 0:
                raise InvalidArgument("Quoted field has to end with quote followed by delim or end")
            parts.append(record[position:quote])
            following = record[quote + 1:quote + 2]
            if quote + 1 == end or following == self._delimiter:
                return b"".join(parts), quote + 2
            if following != b'"':
                raise InvalidArgument("Quote inside a string has to be escaped by another quote")
            parts.append(b'"')
            position = quote + 2


def csv_number(kind: DataType) -> Callable[[bytes], Any]:
    """Return what converts a field to a number of a type, and raises ValueError where it is none."""
    if kind in (DataType.INT32, DataType.INT64):
        limit = 1 << (31 if kind is DataType.INT32 else 63)

        def integer(text: bytes) -> int:
            if b"_" in text:
                raise ValueError(text)
            value = int(text)
            if not -limit <= value < limit:
                raise ValueError(text)
            return value

        return integer

    def real(text: bytes) -> float:
        if b"_" in text:
            raise ValueError(text)
        return float.fromhex(text.decode()) if b"x" in text or b"X" in text else float(text)

    return real


def _csv_shape(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    return [shapes[0]] * len(node.output_types)


@kernel("DecodeCSV", shape=_csv_shape)
def _decode_csv(node: Node, env: KernelEnv) -> Run:
    xp, kinds = env.xp, [base(kind) for kind in node.output_types]
    delimiter, missing = bytes(node.attr("field_delim")), bytes(node.attr("na_value"))
    selected = [int(place) for place in node.attr("select_cols")]
    if len(delimiter) != 1:
        raise InvalidArgument("field_delim should be only 1 char")
    if len(kinds) > _MAX_COLUMNS:
        raise InvalidArgument("Out type too large")
    if selected and len(selected) != len(kinds):
        raise InvalidArgument("select_cols should match output size")
    if any(place < 0 for place in selected):
        raise InvalidArgument("select_cols should be non-negative indices")
    if any(left >= right for left, right in zip(selected, selected[1:])):
        raise InvalidArgument("select_cols should be strictly increasing indices")
    split = _Splitter(delimiter, bool(node.attr("use_quote_delim")), selected)

    def run(records: Any, *defaults: Any) -> list[Any]:
        for number, default in enumerate(defaults):
            if default.ndim > 1:
                raise InvalidArgument("Each record default should be at most rank 1")
            if default.size > 1:
                raise InvalidArgument(f"There should only be 1 default per field but field {number} has {default.size}")
        rows = []
        for number, record in enumerate(records.reshape(-1).tolist()):
            fields = split(record)
            if len(fields) != len(kinds):
                raise InvalidArgument(f"Expect {len(kinds)} fields but have {len(fields)} in record {number}")
            rows.append(fields)
        columns = list(zip(*rows, strict=True)) if rows else [()] * len(kinds)
        outputs = []
        for number, (kind, texts, default) in enumerate(zip(kinds, columns, defaults, strict=True)):
            output = _whole_column(kind, texts, missing)
            if output is None:
                output = _column(number, kind, texts, missing, default)
            output = output.reshape(records.shape)
            outputs.append(output if kind is DataType.STRING else xp.asarray(output))
        return outputs

    return run


def _whole_column(kind: DataType, texts: Sequence[bytes], missing: bytes) -> Any:
    """Convert a column in which nothing is missing or odd; None where something is."""
    if b"" in texts or missing in texts:
        return None
    if kind is DataType.STRING:
        return filled((len(texts),), texts)
    if b"_" in b",".join(texts):  # Python's numbers may hold them
        return None
    try:
        return np.array(list(map(int if kind in (DataType.INT32, DataType.INT64) else float, texts)), to_numpy(kind))
    except (ValueError, OverflowError):
        return None


def _column(number: int, kind: DataType, texts: Sequence[bytes], missing: bytes, default: Any) -> Any:
    """Convert a column field by field, and say which one cannot be."""
    convert = None if kind is DataType.STRING else csv_number(kind)
    output = np.empty(len(texts), to_numpy(kind))
    filler = default.reshape(-1)[0] if default.size else None
    for record, text in enumerate(texts):
        if not text or text == missing:
            if filler is None:
                raise InvalidArgument(f"Field {number} is required but missing in record {record}!")
            output[record] = filler
        elif convert is None:
            output[record] = text
        else:
            try:
                output[record] = convert(text)
            except ValueError:
                raise InvalidArgument(f"Field {number} in record {record} is not a valid {kind.label}: "
                                      f"{text.decode('utf-8', 'replace')}") from None
    return output


_MAX_COLUMNS = 2**31 - 1


# Examples as JSON


@kernel("DecodeJSONExample", shape=like_input())
def _decode_json_example(node: Node, env: KernelEnv) -> Run:
    return lambda texts: map_objects(_example, texts)


def _example(text: bytes) -> bytes:
    """Return the serialised form of an Example in JSON, as protobuf's mapping has it."""
    try:
        found = _members(json.loads(text), "Example", {"features": "features"})
        parts = _members(found.get("features", {}), "Features", {"feature": "feature"})
        features = parts.get("feature", {})
        if not isinstance(features, dict):
            raise ValueError("feature is not an object")
        entries = [bytes_field(1, bytes_field(1, key.encode()) + bytes_field(2, _feature(value)))
                   for key, value in features.items()]
    except (ValueError, OverflowError, RecursionError, struct.error) as error:
        raise InvalidArgument(f"Error while parsing JSON: {error}") from None
    return bytes_field(1, b"".join(entries)) if "features" in found else b""


def _members(value: Any, message: str, names: dict[str, str]) -> dict[str, Any]:
    """Return the fields of a JSON object by the names that `names` maps both spellings to; null is absent."""
    if not isinstance(value, dict):
        raise ValueError(f"{message} must be an object")
    found = {}
    for key, item in value.items():
        if key not in names:
            raise ValueError(f"{message} has no field {key!r}")
        if item is not None:
            found[names[key]] = item
    return found


_LISTS = {"bytesList": "bytes", "bytes_list": "bytes", "floatList": "float", "float_list": "float",
          "int64List": "int64", "int64_list": "int64"}


def _feature(value: Any) -> bytes:
    lists = _members(value, "Feature", _LISTS)
    if len(lists) > 1:
        raise ValueError("a Feature has one list only")
    for kind, item in lists.items():
        values = _members(item, f"{kind} list", {"value": "value"}).get("value", [])
        if not isinstance(values, list):
            raise ValueError("value must be an array")
        if kind == "bytes":
            return bytes_field(1, b"".join(bytes_field(1, _json_bytes(one)) for one in values))
        if kind == "float":
            packed = b"".join(struct.pack("<f", _json_float(one)) for one in values)
            return bytes_field(2, bytes_field(1, packed) if packed else b"")
        packed = b"".join(varint(_json_integer(one) & 2**64 - 1) for one in values)
        return bytes_field(3, bytes_field(1, packed) if packed else b"")
    return b""


def _json_bytes(value: Any) -> bytes:
    if not isinstance(value, str):
        raise ValueError("bytes must be a string in base64")
    text = value.rstrip("=").replace("-", "+").replace("_", "/")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except binascii.Error as error:
        raise ValueError(f"bytes are no base64: {error}") from None


def _json_float(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError(f"{value!r} is no number")
    return float(value)


def _json_integer(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError(f"{value!r} is no integer")
    number = int(value)
    if (isinstance(value, float) and number != value) or not -2**63 <= number < 2**63:
        raise ValueError(f"{value!r} is no 64-bit integer")
    return number
