"""Cases of the string ops."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from tests.ops.case import Case, op_case


def text(*items: Any, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """Return a string array; text is encoded as UTF-8."""
    array = np.empty(len(items), object)
    array[:] = [item if isinstance(item, bytes) else item.encode() for item in items]
    return array if shape is None else array.reshape(shape)


WORDS = text("", "a", "b", "aab", "abc", "Grüße", "x y\tz ", "line\nbreak",
             "5", "a.b", ".*", "é", "日本", "_tmp/part-0",
             b"\xff\xfe", "]", "-", "^", "AbC", "a\x00b", "3.14", "foo_bar")

PATTERNS = (
    "", "a", ".", ".*", "a*", "a+b", "a?b", "(a|b)+", "[a-c]+", "[^a-c]+", r"\d+", r"\w+", r"\W", r"\s", r"[\d.]+",
    "^a$", "a$|b", r"\Aa\z", r"\bfoo_bar\b", r"a\Bb.*", "(?i)abc",
    "(?i)GRÜSSE", "(?i)é", "(?s).*", "(?m)^break$",
    "(?s).*^break$", "(?ms).*^break$", "(?U)a+b", "a{2}b", "a{1,2}b", "a{0}b", "a{,2}", "a{2", r"\x61", r"\x{e9}",
    r"\pL+", r"\p{Han}+", r"\PL+", r"[\pL\d]+", r"\p{Lu}\p{Ll}\p{Lu}", "[[:alpha:]]+", "[[:^alpha:]]+", "[]a]",
    "[^]a]", "[a-]+", r"[\]\-\^]", r"\Qa.b\E", r"\Q.*", r"\.\*", "(?:ab|a)(?:c|bc)?", "(?P<n>a)b?c?", "(a*)*",
    "(a*)+b",
    "(|a)+b", "((a)|b)*", "x*?a??", r".*part-\d", r"\C+", r"[\s\S]*", "[^\n]*", r"\n", r"a\0b", r"\07", "(?-s)a.b",
    "(?i-i)a",
    "(?i:A)b?", "_", "[+--]", "(.*?)(b|$)",
    # None of these is a pattern.
    "(a", "a)", "[a", "a**", "*a", "a{1001}", "(?=a)", r"\y", "[b-a]", r"\p{Foo}", r"\1", "a\\", "[[:foo:]]",
    "a{2,1}",
    "(?x)a", "x{2}{3}", "+", "a|*", "(?<n>a)", r"[a-\d]", r"\x{110000}", r"\Z", "(?P<n", "(?z:a)", "((((a", "a???",
    r"\xg", "(?P<n!>a)", "(?i", "(*)",
)

REPLACEMENTS = (
    ("a*", "x"), ("", "-"), ("(b)", r"[\1\0]"), ("b", r"\2"), ("b", "\\"), ("b", r"x\q"), (r"\s", r"\\"),
    (".", r"<\0>"), ("(a)|(b)", r"\2\1"), ("^", ">"), ("$", "<"), (r"\b", "|"), ("(a+)(b*)", r"\2\1"),
    ("a|ab", "X"), ("(?i)[a-c]", ""),
    ("a*?", "y"), ("(x)?a", r"\1!"), ("[^a]*", "n"),
)


def cases() -> Iterator[Case]:
    """Yield the cases."""
    for pattern in PATTERNS:
        yield op_case("StaticRegexFullMatch", WORDS, pattern=pattern)
    yield op_case("StaticRegexFullMatch", text("a", "b", shape=(1, 2)), pattern="a")
    yield op_case("StaticRegexFullMatch", b"a", pattern="a")
    yield op_case("StaticRegexFullMatch", WORDS[:0], pattern="a")
    yield op_case("RegexFullMatch", WORDS, b"a.*")
    yield op_case("RegexFullMatch", WORDS, b"(")
    yield op_case("RegexFullMatch", WORDS, text("a"))
    for pattern, rewrite in REPLACEMENTS:
        for everywhere in (True, False):
            yield op_case("StaticRegexReplace", WORDS, pattern=pattern, rewrite=rewrite, replace_global=everywhere)
        yield op_case("RegexReplace", WORDS, pattern, rewrite)
    yield op_case("RegexReplace", b"aa", b"a", b"b", replace_global=False)
    yield op_case("RegexReplace", b"aa", text("a"), b"b")
    yield op_case("RegexReplace", b"aa", b"a", text("a"))
    yield op_case("StringJoin", WORDS, WORDS, separator="::")
    yield op_case("StringJoin", WORDS, b"tail", WORDS)
    yield op_case("StringJoin", b"left", b"right", separator="-")
    yield op_case("StringJoin", b"alone")
    yield op_case("StringJoin", text("a", "b"), text("a", "b", "c"))
    yield op_case("StringJoin", text("a"), text("a", shape=(1, 1)))
    yield op_case("StringJoin", WORDS[:0], b"x")
    for number in (0, 7, 123456):
        yield op_case("ShardedFilename", b"dir/name", np.array(number, np.int32), np.array(20, np.int32))
        yield op_case("ShardedFilespec", b"dir/name", np.array(number, np.int32))
    yield op_case("ShardedFilename", text("a"), np.array(1, np.int32), np.array(20, np.int32))
    yield op_case("ShardedFilespec", text("a"), np.array(1, np.int32))
    yield from _letters()
    yield from _parts()


def _letters() -> Iterator[Case]:
    for encoding in ("", "utf-8"):
        # TensorFlow's conversion of UTF-8 ends at a zero byte.
        words = text(*[word for word in WORDS if word not in (b"\xff\xfe", b"a\x00b")]) if encoding else WORDS
        yield op_case("StringLower", words, encoding=encoding)
        yield op_case("StringUpper", words, encoding=encoding)
    yield op_case("StringLower", WORDS, encoding="latin-1", text=False)
    yield op_case("StringStrip", text(" a ", "\t\n b c\v\f\r", "", "  "))
    for unit in ("BYTE", "UTF8_CHAR"):
        yield op_case("StringLength", WORDS, unit=unit)
        yield op_case("StringLength", b"abc", unit=unit)
        for position, length in ((0, 1), (1, 2), (-1, 1), (-2, 10), (0, 0), (0, -1), (3, 1), (100, 1), (-100, 1)):
            for kind in (np.int32, np.int64):
                yield op_case("Substr", text("Grüße", "日本語", "hello"), np.array(position, kind),
                              np.array(length, kind), name=f"{position} {length}", unit=unit)
            yield op_case("Substr", "日本語", np.array(position, np.int32), np.array(length, np.int32),
                          name=f"{position} {length}", unit=unit)
    words = text("hello", "world", "again", "there", shape=(2, 2))
    yield op_case("Substr", words, np.array([0, 1], np.int32), np.array([1, 2], np.int32))
    yield op_case("Substr", words, np.array([[0, 1], [2, 3]], np.int32), np.array([[1, 2], [3, 4]], np.int32))
    yield op_case("Substr", words, np.array([[0], [2]], np.int32), np.array([[1], [3]], np.int32))
    yield op_case("Substr", words, np.array([0, 1], np.int32), np.array(1, np.int32))
    yield op_case("Substr", b"hello", np.array([0, 1], np.int32), np.array([1, 2], np.int32))
    yield op_case("Substr", words, np.array([0, 1, 2], np.int32), np.array([1, 2, 3], np.int32), text=False)


def _parts() -> Iterator[Case]:
    lines = text("a b  c", "", " lead", "trail ", "one", "a,b,,c", ",", "a, b")
    for delimiter in (b" ", b",", b"", b", ", b"ab"):
        for skip in (True, False):
            yield op_case("StringSplit", lines, delimiter, name=repr(delimiter), skip_empty=skip)
        for most in (-1, 0, 1, 2):
            yield op_case("StringSplitV2", lines, delimiter, name=repr(delimiter), maxsplit=most)
    yield op_case("StringSplit", lines[:0], b" ")
    yield op_case("StringSplitV2", lines[:0], b" ")
    yield op_case("StringSplit", b"a b", b" ")
    yield op_case("StringSplitV2", b"a b", b" ")
    yield op_case("StringSplit", lines, text(" ", ","))
    yield op_case("StringSplitV2", lines, text(" "))
    words = text(*"abcdefghijkl", shape=(2, 3, 2))
    for axes in ((), (0,), (1,), (-1,), (0, 1), (1, 0), (2, 0, 1), (3,), (-4,), (0, 0)):
        for keep in (False, True):
            yield op_case("ReduceJoin", words, np.array(axes, np.int32), name=str(axes), keep_dims=keep, separator="+")
    yield op_case("ReduceJoin", words, np.array(1, np.int32))
    yield op_case("ReduceJoin", words[:, :0], np.array(1, np.int32))
    yield op_case("ReduceJoin", words[:, :0], np.array(0, np.int32))
    yield op_case("ReduceJoin", b"a", np.zeros(0, np.int32))
