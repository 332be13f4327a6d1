"""Regular expressions in RE2's syntax: from text to a program for `runtime.ops.regex`.

A pattern comes from a client, so it must neither run for ever nor grow without bound: there are no back references
and no look-around, repetition counts end at 1,000, and a program has a largest size. Error texts are RE2's.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field

__all__ = ["ASSERT", "CHAR", "JUMP", "MATCH", "SAVE", "SPLIT", "PatternError", "Program", "compile_pattern"]

Test = Callable[[str], bool]

CHAR, SPLIT, JUMP, SAVE, ASSERT, MATCH = range(6)
"""Instructions: test a character; go on at two places, the first preferred; go elsewhere; note the position in a
slot; go on if a condition on the neighbours holds; done."""

_MAX_REPEAT = 1000
_MAX_INSTRUCTIONS = 50_000
_MAX_DEPTH = 200


class PatternError(ValueError):
    """The text is no pattern; the message says what and where, as RE2 does."""


@dataclass
class Program:
    """Instructions ``(opcode, x, y)`` and how many groups they note.

    Attributes
    ----------
    code : list of (int, object, int)
        CHAR has its test as x; SPLIT and JUMP have targets; SAVE its slot; ASSERT one of ``^ $ A z b B``.
    groups : int
        Capturing groups, the whole match not counted.
    """

    code: list[tuple[int, object, int]] = field(default_factory=list)
    groups: int = 0


@dataclass(frozen=True)
class _Node:
    """Part of a pattern: kind is char, empty, assert, cat, alt, repeat or group."""

    kind: str
    parts: tuple[_Node, ...] = ()
    test: Test | None = None
    low: int = 0
    high: int | None = None
    greedy: bool = True
    name: str = ""


_EMPTY = _Node("empty")
_POSIX = {
    "alnum": str.isalnum, "alpha": str.isalpha, "ascii": str.isascii, "blank": " \t".__contains__,
    "cntrl": lambda c: c < " " or c == "\x7f", "digit": "0123456789".__contains__, "graph": lambda c: "!" <= c <= "~",
    "lower": lambda c: "a" <= c <= "z", "print": lambda c: " " <= c <= "~",
    "punct": lambda c: "!" <= c <= "~" and not c.isalnum(), "space": " \t\n\v\f\r".__contains__,
    "upper": lambda c: "A" <= c <= "Z", "word": lambda c: c == "_" or c.isalnum(),
    "xdigit": "0123456789abcdefABCDEF".__contains__,
}
"""Classes of ASCII characters; each is asked only about those."""
_PERL: dict[str, str] = {"d": "digit", "s": "perl space", "w": "word"}
_MINOR = {"L": "ultmo", "M": "nce", "N": "dlo", "P": "cdseifo", "S": "mcko", "Z": "slp", "C": "cfos"}
_CATEGORIES = frozenset([*_MINOR, *(major + minor for major, minors in _MINOR.items() for minor in minors)])
_SCRIPTS = frozenset([
    "Arabic", "Armenian", "Bengali", "Bopomofo", "Cyrillic", "Devanagari", "Ethiopic", "Georgian", "Greek", "Gujarati",
    "Gurmukhi", "Han", "Hangul", "Hebrew", "Hiragana", "Kannada", "Katakana", "Khmer", "Lao", "Latin", "Malayalam",
    "Mongolian", "Myanmar", "Sinhala", "Tamil", "Telugu", "Thai", "Tibetan",
])
_ESCAPED = {"a": "\a", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}


def _ascii_class(name: str, negated: bool) -> Test:
    if name == "perl space":
        def test(c: str) -> bool:
            return c in " \t\n\f\r"
    else:
        posix = _POSIX[name]

        def test(c: str) -> bool:
            return c.isascii() and posix(c)

    return (lambda c: not test(c)) if negated else test


def _one_of(low: str, high: str) -> Test:
    if low == high:
        return low.__eq__
    return lambda c: low <= c <= high


def _of_characters(test: Test) -> Test:
    """Return a test that stands for no byte that is not UTF-8; such bytes come as lone surrogates."""
    return lambda c: not "\udc80" <= c <= "\udcff" and test(c)


def _folded(test: Test) -> Test:
    """Return a test that does not care about case."""
    def run(c: str) -> bool:
        return test(c) or any(len(other) == 1 and test(other) for other in (c.lower(), c.upper()))

    return run


class _Parser:
    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        self.at = 0
        self.groups = 0
        self.fold = self.multi_line = self.dot_all = self.swap_greed = False
        self.depth = 0

    def fail(self, what: str, part: str) -> PatternError:
        return PatternError(f"{what}: {part}")

    def peek(self, text: str) -> bool:
        return self.pattern.startswith(text, self.at)

    def parse(self) -> _Node:
        node = self.alternation()
        if self.at < len(self.pattern):
            raise self.fail("unexpected )", self.pattern)
        return node

    def alternation(self) -> _Node:
        branches = [self.sequence()]
        while self.peek("|"):
            self.at += 1
            branches.append(self.sequence())
        return branches[0] if len(branches) == 1 else _Node("alt", tuple(branches))

    def sequence(self) -> _Node:
        parts: list[_Node] = []
        last_repeat = ""
        while self.at < len(self.pattern) and self.pattern[self.at] not in "|)":
            operator = self.repeat_operator()
            if operator is None:
                parts.extend(self.atom())
                last_repeat = ""
                continue
            text, low, high, greedy = operator
            if last_repeat:
                raise self.fail("bad repetition operator", last_repeat + text)
            if not parts:
                raise self.fail("no argument for repetition operator", text)
            parts[-1] = _Node("repeat", (parts[-1],), low=low, high=high, greedy=greedy != self.swap_greed)
            last_repeat = text
        return parts[0] if len(parts) == 1 else _Node("cat", tuple(parts)) if parts else _EMPTY

    def repeat_operator(self) -> tuple[str, int, int | None, bool] | None:
        """Take ``*``, ``+``, ``?`` or a count, with the ``?`` that makes it lazy; None when there is none here."""
        start = self.at
        first = self.pattern[start]
        low: int
        high: int | None
        if first in "*+?":
            low, high = (0, None) if first == "*" else (1, None) if first == "+" else (0, 1)
            self.at += 1
        elif first == "{":
            end = self.pattern.find("}", start)
            lows, comma, highs = self.pattern[start + 1:end].partition(",") if end > 0 else ("", "", "")
            if not (lows.isascii() and lows.isdigit()) or (highs and not (highs.isascii() and highs.isdigit())):
                return None  # an ordinary brace
            low, high = int(lows), int(highs) if highs else None if comma else int(lows)
            self.at = end + 1
            if max(low, high or 0) > _MAX_REPEAT or (high is not None and high < low):
                raise self.fail("invalid repetition size", self.pattern[start:self.at])
        else:
            return None
        greedy = not self.peek("?")
        self.at += not greedy
        return self.pattern[start:self.at], low, high, greedy

    def char(self, test: Test) -> _Node:
        return _Node("char", test=_folded(test) if self.fold else test)

    def atom(self) -> list[_Node]:
        first = self.pattern[self.at]
        if first == "(":
            return [self.group()]
        if first == "[":
            return [self.bracket()]
        if first == "\\":
            return self.escape()
        self.at += 1
        if first == ".":
            return [_Node("char", test=_of_characters((lambda c: True) if self.dot_all else "\n".__ne__))]
        if first == "^":
            return [_Node("assert", name="^" if self.multi_line else "A")]
        if first == "$":
            return [_Node("assert", name="$" if self.multi_line else "z")]
        return [self.char(first.__eq__)]

    def group(self) -> _Node:
        start = self.at
        self.depth += 1
        if self.depth > _MAX_DEPTH:
            raise PatternError("expression nests too deeply")
        saved = (self.fold, self.multi_line, self.dot_all, self.swap_greed)
        number = None
        if self.peek("(?P<"):
            end = self.pattern.find(">", start)
            name = self.pattern[start + 4:end] if end > 0 else ""
            if end < 0:
                raise self.fail("invalid named capture group", self.pattern[start:])
            if not name or not all(c == "_" or c.isalnum() for c in name):
                raise self.fail("invalid named capture group", self.pattern[start:end + 1])
            self.at = end + 1
            self.groups += 1
            number = self.groups
        elif self.peek("(?"):
            if self.flags(start):
                self.depth -= 1
                return _EMPTY
        else:
            self.at += 1
            self.groups += 1
            number = self.groups
        inner = self.alternation()
        if not self.peek(")"):
            raise self.fail("missing )", self.pattern)
        self.at += 1
        self.depth -= 1
        self.fold, self.multi_line, self.dot_all, self.swap_greed = saved
        return inner if number is None else _Node("group", (inner,), low=number)

    def flags(self, start: int) -> bool:
        """Take ``(?flags)`` (True) or ``(?flags:`` (False)."""
        self.at += 2
        value, seen = True, False
        while True:
            if self.at >= len(self.pattern):
                raise self.fail("invalid perl operator", self.pattern[start:])
            letter = self.pattern[self.at]
            self.at += 1
            if letter == "i":
                self.fold = value
            elif letter == "m":
                self.multi_line = value
            elif letter == "s":
                self.dot_all = value
            elif letter == "U":
                self.swap_greed = value
            elif letter == "-" and value:
                value, seen = False, False
                continue
            elif letter in ":)" and (value or seen):
                return letter == ")"
            else:
                raise self.fail("invalid perl operator", self.pattern[start:self.at])
            seen = True

    def escape(self) -> list[_Node]:
        if self.at + 1 >= len(self.pattern):
            raise PatternError("trailing \\")
        letter = self.pattern[self.at + 1]
        if letter == "Q":
            end = self.pattern.find("\\E", self.at + 2)
            literal = self.pattern[self.at + 2:] if end < 0 else self.pattern[self.at + 2:end]
            self.at = len(self.pattern) if end < 0 else end + 2
            return [self.char(c.__eq__) for c in literal]
        if letter in "AzbB":
            self.at += 2
            return [_Node("assert", name=letter)]
        if letter == "C":
            self.at += 2
            return [_Node("char", test=lambda c: True)]
        test = self.class_escape()
        return [self.char(_of_characters(test) if test is not None else self.character_escape().__eq__)]

    def class_escape(self) -> Test | None:
        r"""Take ``\d``, ``\pL`` and their like; None when the escape is not a class."""
        letter = self.pattern[self.at + 1:self.at + 2]
        if letter and letter.lower() in _PERL:
            self.at += 2
            return _ascii_class(_PERL[letter.lower()], letter.isupper())
        if letter and letter in "pP":
            start = self.at
            self.at += 2
            name = self.pattern[self.at:self.at + 1]
            self.at += 1
            if name == "{":
                end = self.pattern.find("}", self.at)
                if end < 0:
                    raise self.fail("invalid character class range", self.pattern[start:])
                name = self.pattern[self.at:end]
                self.at = end + 1
            negated = letter == "P"
            if name.startswith("^"):
                negated, name = not negated, name[1:]
            return self.unicode_class(name, negated, self.pattern[start:self.at])
        return None

    def unicode_class(self, name: str, negated: bool, text: str) -> Test:
        if name == "Any":
            return lambda c: not negated
        if name in _CATEGORIES:
            return lambda c: unicodedata.category(c).startswith(name) != negated
        if name in _SCRIPTS:  # what a character is called begins with its script, CJK for Han
            prefix = "CJK UNIFIED" if name == "Han" else name.upper() + " "
            return lambda c: unicodedata.name(c, "").startswith(prefix) != negated
        raise self.fail("invalid character class range", text)

    def character_escape(self) -> str:
        start = self.at
        if start + 1 >= len(self.pattern):
            raise PatternError("trailing \\")
        letter = self.pattern[start + 1]
        self.at += 2
        if letter in _ESCAPED:
            return _ESCAPED[letter]
        if letter == "x":
            return self.hexadecimal(start)
        follows = self.pattern[self.at:self.at + 1]
        if letter == "0" or (letter in "1234567" and follows and follows in "01234567"):
            digits = letter
            while len(digits) < 3 and self.at < len(self.pattern) and self.pattern[self.at] in "01234567":
                digits += self.pattern[self.at]
                self.at += 1
            return chr(int(digits, 8))
        if letter.isascii() and not letter.isalnum():
            return letter
        raise self.fail("invalid escape sequence", self.pattern[start:self.at])

    def hexadecimal(self, start: int) -> str:
        digits = ""
        if self.peek("{"):
            self.at += 1
            while self.at < len(self.pattern) and self.pattern[self.at] in "0123456789abcdefABCDEF":
                digits += self.pattern[self.at]
                self.at += 1
                if int(digits, 16) > 0x10FFFF:
                    raise self.fail("invalid escape sequence", self.pattern[start:self.at])
            closed = self.peek("}")
            self.at += closed
            if not digits or not closed:
                raise self.fail("invalid escape sequence", self.pattern[start:self.at])
            return chr(int(digits, 16))
        digits = self.pattern[self.at:self.at + 2]
        self.at += len(digits)
        if len(digits) != 2 or not all(c in "0123456789abcdefABCDEF" for c in digits):
            raise self.fail("invalid escape sequence", self.pattern[start:self.at])
        return chr(int(digits, 16))

    def bracket(self) -> _Node:
        start = self.at
        self.at += 1
        negated = self.peek("^")
        self.at += negated
        tests: list[Test] = []
        first = True
        while first or not self.peek("]"):
            if self.at >= len(self.pattern):
                raise self.fail("missing ]", self.pattern[start:])
            first = False
            if self.peek("[:"):
                end = self.pattern.find(":]", self.at)
                if end > 0:
                    name = self.pattern[self.at + 2:end]
                    inverse = name.startswith("^")
                    if name.removeprefix("^") not in _POSIX:
                        raise self.fail("invalid character class range", self.pattern[self.at:end + 2])
                    tests.append(_ascii_class(name.removeprefix("^"), inverse))
                    self.at = end + 2
                    continue
            if self.peek("\\"):
                test = self.class_escape()
                if test is not None:
                    tests.append(test)
                    continue
            tests.append(self.range(start))
        self.at += 1

        def inside(c: str) -> bool:
            return any(test(c) for test in tests)

        member = _folded(inside) if self.fold else inside
        return _Node("char", test=_of_characters((lambda c: not member(c)) if negated else member))

    def range(self, bracket: int) -> Test:
        start = self.at
        low = self.class_character(bracket)
        if self.peek("-") and not self.peek("-]") and self.at + 1 < len(self.pattern):
            self.at += 1
            high = self.class_character(bracket)
            if high < low:
                raise self.fail("invalid character class range", self.pattern[start:self.at])
            return _one_of(low, high)
        return low.__eq__

    def class_character(self, bracket: int) -> str:
        if self.at >= len(self.pattern):
            raise self.fail("missing ]", self.pattern[bracket:])
        if self.peek("\\"):
            return self.character_escape()
        self.at += 1
        return self.pattern[self.at - 1]


class _Compiler:
    def __init__(self) -> None:
        self.program = Program()

    def emit(self, opcode: int, x: object = 0, y: int = 0) -> int:
        code = self.program.code
        if len(code) >= _MAX_INSTRUCTIONS:
            raise PatternError("pattern too large - compile failed")
        code.append((opcode, x, y))
        return len(code) - 1

    def split(self, at: int, preferred: int, other: int, greedy: bool) -> None:
        self.program.code[at] = (SPLIT, preferred, other) if greedy else (SPLIT, other, preferred)

    def node(self, node: _Node) -> None:
        match node.kind:
            case "char":
                self.emit(CHAR, node.test)
            case "assert":
                self.emit(ASSERT, node.name)
            case "cat":
                for part in node.parts:
                    self.node(part)
            case "alt":
                self.alternation(node.parts)
            case "group":
                self.emit(SAVE, 2 * node.low)
                self.node(node.parts[0])
                self.emit(SAVE, 2 * node.low + 1)
            case "repeat":
                self.repeat(node)

    def alternation(self, branches: tuple[_Node, ...]) -> None:
        jumps = []
        for branch in branches[:-1]:
            fork = self.emit(SPLIT)
            self.node(branch)
            jumps.append(self.emit(JUMP))
            self.split(fork, fork + 1, len(self.program.code), True)
        self.node(branches[-1])
        for jump in jumps:
            self.program.code[jump] = (JUMP, len(self.program.code), 0)

    def repeat(self, node: _Node) -> None:
        part = node.parts[0]
        for _ in range(node.low):
            self.node(part)
        if node.high is None:
            fork = self.emit(SPLIT)
            self.node(part)
            self.emit(JUMP, fork)
            self.split(fork, fork + 1, len(self.program.code), node.greedy)
            return
        forks = []
        for _ in range(node.high - node.low):
            forks.append(self.emit(SPLIT))
            self.node(part)
        for fork in forks:
            self.split(fork, fork + 1, len(self.program.code), node.greedy)


def compile_pattern(pattern: str) -> Program:
    """Return the program of a pattern.

    Raises
    ------
    PatternError
        If the text is no pattern, or its program would be too large.
    """
    parser = _Parser(pattern)
    tree = parser.parse()
    compiler = _Compiler()
    compiler.node(tree)
    compiler.emit(MATCH)
    compiler.program.groups = parser.groups
    return compiler.program
