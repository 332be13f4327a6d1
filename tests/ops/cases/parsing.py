"""Cases of tensors from text and bytes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from runtime._ext.example_codec import ExampleParser
from runtime.dtypes import DataType, from_numpy
from tests.ops.case import COMPLEX, FLOATS, INTEGERS, Case, bf16, op_case, tensor
from tests.ops.cases.example_parsing import texts
from tests.ops.values import edge_values, values

ONE = np.float32
EVERY = (*FLOATS, *INTEGERS, *COMPLEX, np.bool_, object)


def cases() -> Iterator[Case]:
    """Yield the cases."""
    yield from _tensors()
    yield from _raw()
    yield from _csv()
    yield from _json()


def _tensors() -> Iterator[Case]:
    for kind in EVERY:
        for shape in ((), (2, 3), (0, 2)):
            array = values(kind, shape)
            yield op_case("SerializeTensor", array)
            yield op_case("ParseTensor", np.array(tensor(array).SerializeToString(), object),
                          out_type=from_numpy(array.dtype))
    text = np.array(tensor(values(ONE, (2,))).SerializeToString(), object)
    yield op_case("ParseTensor", text, out_type=np.int32)
    yield op_case("ParseTensor", texts(text.item()), out_type=ONE)
    yield op_case("ParseTensor", np.array(b"no tensor", object), out_type=ONE, text=False)
    yield op_case("SerializeTensor", edge_values(ONE))


def _raw() -> Iterator[Case]:
    data = bytes(range(48))
    for kind, little in itertools.product((np.float16, ONE, np.float64, np.int32, np.uint16, np.uint8, np.int16,
                                           np.int8, np.int64, *COMPLEX), (True, False)):
        yield op_case("DecodeRaw", texts(data, data[::-1]), out_type=kind, little_endian=little)
    for kind, little in itertools.product((ONE, np.float64, np.int32, np.uint16, np.uint8, np.int16, np.int8, np.int64,
                                           bf16), (True, False)):
        yield op_case("DecodePaddedRaw", texts(data[:13], data, b""), np.array(24, np.int32), out_type=kind,
                      little_endian=little)
    yield op_case("DecodeRaw", texts(b"\x00\x01\x01"), out_type=np.bool_)
    yield op_case("DecodeRaw", np.array(b"\x00\x01\x02\x03", object), out_type=np.int16)
    yield op_case("DecodeRaw", texts(b"abcd", b"abc"), out_type=np.int16)
    yield op_case("DecodeRaw", texts(b"abc"), out_type=np.int16)
    yield op_case("DecodeRaw", texts(), out_type=np.int16)
    yield op_case("DecodeRaw", texts(b""), out_type=np.int16)
    yield op_case("DecodeRaw", texts(b"ab", b"cd").reshape(2, 1), out_type=np.uint8)
    for length in (3, 0, -2, [4]):
        yield op_case("DecodePaddedRaw", texts(b"abcd"), np.array(length, np.int32), out_type=np.int16)
    yield op_case("DecodePaddedRaw", texts(), np.array(4, np.int32), out_type=np.int16)


def _csv() -> Iterator[Case]:
    op = "DecodeCSV"
    numbers = [np.array([], ONE), np.array([7], np.int32), np.array([], np.int64), np.array([0.5]),
               np.array([b"?"], object)]
    kinds = [ONE, np.int32, np.int64, np.float64, DataType.STRING]
    good = ["1.5,2,3,4e5,text", "-inf,,9223372036854775807,,", '"1","2","3","0.25","a ""b"", c"', "1,2,3,4, x "]
    yield op_case(op, texts(*good), *numbers, OUT_TYPE=kinds)
    yield op_case(op, texts(*good).reshape(2, 2), *numbers, OUT_TYPE=kinds)
    yield op_case(op, np.array(good[0].encode(), object), *numbers, OUT_TYPE=kinds)
    yield op_case(op, texts(), *numbers, OUT_TYPE=kinds)
    for bad in (",2,3,4,x", "1,2,,4,x", "a,2,3,4,x", "1,2.5,3,4,x", "1,2147483648,3,4,x", "1,2,3,4", "1,2,3,4,5,6",
                "", "\n", "1,2,3,4,a\"b", '1,2,3,4,"a', '1,2,3,4,"a"b', '1,2,3,4,"a"b"', "1,2,3,4,a\nb", "1,2_0,3,4,x",
                " 1 , 2 , 3 , 4 ,x", "1,2,3,4,x\n", "\n1,2,3,4,x", "nan,2,3,inf,x", "0x10,2,3,4,x", "1,0x10,3,4,x",
                "1,+2,3,4,x", "1,2,3,1e999,x", '1,2,3,4,""', "1,2,3,4,"):
        yield op_case(op, texts(good[0], bad), *numbers, OUT_TYPE=kinds, name=repr(bad))
    two, word = [np.array([b"-"], object)] * 2, DataType.STRING
    for record, attrs in (
        ("a\tb", {"field_delim": "\t"}), ('"a",b', {"use_quote_delim": False}), ("NA,b", {"na_value": "NA"}),
        ("a,b,c,d", {"select_cols": [1, 3]}), ("a,b,c", {"select_cols": [1, 3]}), ('a,b,c,"d', {"select_cols": [0, 2]}),
        ("a,b", {"select_cols": [1, 0]}), ("a,b", {"select_cols": [1]}), ("a,b", {"select_cols": [-1, 0]}),
        ("a;;b", {"field_delim": ";;"}), ("a, b", {"field_delim": " "}), ('"a;b";c', {"field_delim": ";"}),
    ):
        yield op_case(op, texts(record), *two, OUT_TYPE=[word, word], **attrs)
    yield op_case(op, texts("a"), np.array([b"x", b"y"], object), OUT_TYPE=[word])
    yield op_case(op, texts("a"), np.array(b"x", object), OUT_TYPE=[word])
    yield op_case(op, texts("a"), np.array([[b"x"]], object), OUT_TYPE=[word])


def _json() -> Iterator[Case]:
    op = "DecodeJSONExample"
    good = ('{"features": {"feature": {"a": {"int64List": {"value": [1, "-2", 3.0]}}, '
            '"b": {"bytesList": {"value": ["YWI=", "", "_-8"]}}, "c": {"floatList": {"value": [1.5, "NaN", "-Infinity",'
            ' 2]}}, "d": {}, "e": {"int64List": {}}}}}')
    snake = '{"features": {"feature": {"a": {"int64_list": {"value": [7]}}, "b": {"bytes_list": {"value": ["cQ=="]}}}}}'
    yield op_case(op, texts(good, snake, "{}", '{"features": null}'), compare=_same_examples)
    yield op_case(op, np.array(snake.encode(), object), compare=_same_examples)
    for bad in ("", "[]", "{", '{"feature": {}}', '{"features": {"feature": {"a": {"int64List": {"value": ["x"]}}}}}',
                '{"features": {"feature": {"a": {"int64List": {"value": [1.5]}}}}}',
                '{"features": {"feature": {"a": {"bytesList": {"value": [1]}}}}}',
                '{"features": {"feature": {"a": {"floatList": {"value": ["x"]}}}}}',
                '{"features": {"feature": {"a": {"int64List": {"value": [9223372036854775808]}}}}}',
                '{"features": {"feature": {"a": {"int64List": {}, "floatList": {}}}}}'):
        yield op_case(op, texts(bad), name=bad, text=False)


def _same_examples(ours: list[Any], theirs: list[Any]) -> str:
    """Compare Examples whose features may stand in another order."""
    for kind in (1, 2, 3):
        for key in (b"a", b"b", b"c", b"d", b"e"):
            both = [_read(key, kind, side[0].reshape(-1).tolist()) for side in (ours, theirs)]
            if both[0] != both[1]:
                return f"feature {key!r} is {both[0]}, TensorFlow's {both[1]}"
    return ""


def _read(key: bytes, kind: int, messages: list[bytes]) -> Any:
    try:
        counts, found, *_ = ExampleParser([key], [kind]).parse(messages)
    except Exception as error:
        return repr(error)
    return counts.tolist(), repr(found[0].tolist())
