"""Cases of strings in other forms."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np

from tests.ops.case import COMPLEX, FLOATS, INTEGERS, Case, op_case
from tests.ops.cases.example_parsing import texts
from tests.ops.values import values

WORDS = texts(b"", b"a", b"hello", b"\x00\xff", b"x" * 7, b"x" * 8, b"x" * 9, b"y" * 15, b"y" * 16, b"z" * 63,
              b"z" * 64, b"z" * 65, bytes(range(256)) * 3)


def cases() -> Iterator[Case]:
    """Yield the cases."""
    yield from _hashes()
    yield from _base64()
    yield from _joins()
    yield from _decoded()
    yield from _encoded()


def _hashes() -> Iterator[Case]:
    for buckets in (1, 10, 2**40):
        yield op_case("StringToHashBucket", WORDS, num_buckets=buckets)
        for key in ([1, 2], [-1, 2**62], [0, 0]):
            yield op_case("StringToHashBucketStrong", WORDS, num_buckets=buckets, key=key)
    yield op_case("StringToHashBucketStrong", WORDS, num_buckets=3, key=[1])
    yield op_case("StringToHashBucket", texts(b"a", b"b").reshape(2, 1), num_buckets=9)
    method = np.array(b"farmhash64", object)
    for kind in (*FLOATS, *INTEGERS, *COMPLEX, np.bool_, object):
        for shape in ((3,), (3, 2, 2), (0, 2)):
            yield op_case("Fingerprint", values(kind, shape), method)
    yield op_case("Fingerprint", WORDS, method)
    yield op_case("Fingerprint", np.array(b"a", object), method)
    yield op_case("Fingerprint", WORDS, np.array(b"other", object))
    yield op_case("Fingerprint", WORDS, texts(b"farmhash64"))


def _base64() -> Iterator[Case]:
    for pad in (False, True):
        yield op_case("EncodeBase64", WORDS, pad=pad)
    yield op_case("EncodeBase64", texts(b"a", b"b").reshape(2, 1))
    yield op_case("DecodeBase64", texts(b"", b"YQ", b"YQ==", b"YWI", b"YWI=", b"YWJj", b"_-8"))
    for bad in (b"Y", b"YWJjZ", b"Y+==", b"YQ=", b"Y Q", b"YQ==YQ", b"====", b"YR==", b"YQ===", b"=YQ"):
        yield op_case("DecodeBase64", texts(bad), name=repr(bad), text=False)


def _joins() -> Iterator[Case]:
    words = texts(*"abcdef")
    for ids, count, separator in (([0, 2, 0, 1, 2, 0], 4, "-"), ([0, 2, -1, 1, 2, 0], 3, ""), ([0] * 6, 1, ", "),
                                  ([0, 4, 0, 0, 0, 0], 3, ""), ([0, 1], 2, ""), ([0] * 6, 0, ""), ([0] * 6, -1, "")):
        for kind in (np.int32, np.int64):
            yield op_case("UnsortedSegmentJoin", words, np.array(ids, kind), np.array(count, kind), separator=separator,
                          name=str(ids), text=len(ids) == 6)
    yield op_case("UnsortedSegmentJoin", words.reshape(3, 2), np.array([1, 0, 1]), np.array(2), separator="+")
    yield op_case("UnsortedSegmentJoin", words.reshape(3, 2), np.array([[1, 0], [1, 1], [0, 0]]), np.array(2),
                  separator="+")
    yield op_case("UnsortedSegmentJoin", words, np.array([0] * 6), np.array([2]))
    yield op_case("UnsortedSegmentJoin", words[:0], np.array([], np.int32), np.array(2))


def _decoded() -> Iterator[Case]:
    good = texts("abc", "", "héllo wörld", "日本語", "😀x", "a\tb\nc\x00")
    bad = texts(b"a\xffb", b"\xe2\x82", b"\xe2\x82x", b"\xed\xa0\x80", b"\xf0\x9f\x98", b"\xc0\x80z",
                b"\xf4\x90\x80\x80", b"\x80\x80", b"ok\xe2\x28\xa1", b"\xf8\x88\x80\x80\x80")
    for op in ("UnicodeDecode", "UnicodeDecodeWithOffsets"):
        # TensorFlow's kernel with offsets breaks off the process where splits are int32.
        for splits in (np.int32, np.int64) if op == "UnicodeDecode" else (np.int64,):
            yield op_case(op, good, input_encoding="UTF-8", Tsplits=splits)
        for errors, controls in itertools.product(("strict", "replace", "ignore"), (False, True)):
            common = {"errors": errors, "replace_control_characters": controls, "input_encoding": "UTF-8",
                      "Tsplits": np.int64}
            yield op_case(op, good, **common)
            yield op_case(op, bad, replacement_char=63, **common)
        yield op_case(op, good.reshape(2, 3), input_encoding="UTF-8", Tsplits=np.int64)
        for codec, name in (("utf-16-be", "UTF-16-BE"), ("utf-32-be", "UTF-32-BE")):
            coded = texts(*(text.decode().encode(codec) for text in good))
            yield op_case(op, coded, input_encoding=name, Tsplits=np.int64)
        yield op_case(op, texts(b"\xd8\x00\x00a", b"\x00a\xd8\x00", b"\xdc\x00"), input_encoding="UTF-16-BE",
                      Tsplits=np.int64)
        yield op_case(op, texts(b"\xe9a"), input_encoding="ISO-8859-1", Tsplits=np.int64)
        yield op_case(op, texts(b"\xe9a"), input_encoding="US-ASCII", Tsplits=np.int64)
        yield op_case(op, texts(b"\x82\xa0a"), input_encoding="shift-jis", Tsplits=np.int64)
        yield op_case(op, good, input_encoding="no such", Tsplits=np.int64, text=False)
        yield op_case(op, good, input_encoding="UTF-8", replacement_char=0x110000, Tsplits=np.int64)


def _encoded() -> Iterator[Case]:
    points = np.array([0x61, 0xE9, 0x65E5, 0x1F600, 0x7A, 0x0A], np.int32)
    wrong = np.array([0x61, 0xD800, 0x110000, -1, 0xFFFE, 0xFDD0, 0x62], np.int32)
    for encoding in ("UTF-8", "UTF-16-BE", "UTF-32-BE"):
        for kind in (np.int32, np.int64):
            yield op_case("UnicodeEncode", points, np.array([0, 2, 2, 5, 6], kind), output_encoding=encoding)
        for errors in ("strict", "replace", "ignore"):
            yield op_case("UnicodeEncode", wrong, np.array([0, 3, 7]), output_encoding=encoding, errors=errors,
                          replacement_char=63)
    for splits in ([0], [], [1, 6], [0, 4, 2], [0, 9], [0, 3]):
        yield op_case("UnicodeEncode", points, np.array(splits, np.int64), output_encoding="UTF-8", name=str(splits))
    yield op_case("UnicodeEncode", points, np.array([0, 6]), output_encoding="UTF-8", replacement_char=-4)
