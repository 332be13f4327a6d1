"""Matching in RE2's syntax, in time linear in the text whatever the pattern.

Full matches walk a deterministic automaton that is built as texts need it; searches with groups run all threads of
the program side by side, the preferred one first. Text is UTF-8; bytes that are not count as characters of their own.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from runtime._ext.errors import InvalidArgument
from runtime.ops.regex_syntax import ASSERT, CHAR, JUMP, MATCH, SAVE, SPLIT, PatternError, Program, compile_pattern

__all__ = ["Regex", "compile_regex"]

_MAX_TRANSITIONS = 20_000
_INVALID_BYTES = "surrogateescape"

Slots = tuple[int, ...]


def _is_word(c: str) -> bool:
    return c.isascii() and (c == "_" or c.isalnum())


def _holds(name: str, before: str, after: str) -> bool:
    """Tell whether an assertion holds between two characters; the ends of the text are empty strings."""
    if name == "A":
        return not before
    if name == "z":
        return not after
    if name == "^":
        return not before or before == "\n"
    if name == "$":
        return not after or after == "\n"
    at_boundary = bool(before and _is_word(before)) != bool(after and _is_word(after))
    return at_boundary == (name == "b")


class Regex:
    """A compiled pattern. Safe to use from several threads.

    Parameters
    ----------
    pattern : bytes
        In RE2's syntax.

    Raises
    ------
    InvalidArgument
        If it is no pattern.
    """

    def __init__(self, pattern: bytes) -> None:
        text = pattern.decode("utf-8", _INVALID_BYTES)
        try:
            self._program: Program = compile_pattern(text)
        except PatternError as error:
            raise InvalidArgument(f"Invalid pattern: {text}, error: {error}") from None
        self._transitions: dict[tuple[frozenset[int], str, str], frozenset[int]] = {}

    @property
    def groups(self) -> int:
        """Number of capturing groups."""
        return self._program.groups

    def _closure(self, starts: Iterable[int], before: str, after: str) -> set[int]:
        """Return all CHAR and MATCH instructions that are reached without taking a character."""
        code = self._program.code
        seen: set[int] = set()
        found: set[int] = set()
        stack = list(starts)
        while stack:
            at = stack.pop()
            if at in seen:
                continue
            seen.add(at)
            opcode, x, y = code[at]
            if opcode == SPLIT:
                stack.append(x)  # type: ignore[arg-type]
                stack.append(y)
            elif opcode == JUMP:
                stack.append(x)  # type: ignore[arg-type]
            elif opcode == SAVE:
                stack.append(at + 1)
            elif opcode == ASSERT:
                if _holds(x, before, after):  # type: ignore[arg-type]
                    stack.append(at + 1)
            else:
                found.add(at)
        return found

    def full_match(self, text: bytes) -> bool:
        """Tell whether the whole text matches."""
        code = self._program.code
        transitions = self._transitions
        state = frozenset((0,))
        before = ""
        decoded = text.decode("utf-8", _INVALID_BYTES)
        for c in decoded:
            key = (state, before, c)
            following = transitions.get(key)
            if following is None:
                reached = self._closure(state, before, c)
                following = frozenset(at + 1 for at in reached if code[at][0] == CHAR and code[at][1](c))  # type: ignore[operator]
                if len(transitions) >= _MAX_TRANSITIONS:
                    transitions.clear()
                transitions[key] = following
            if not following:
                return False
            state, before = following, c
        return any(code[at][0] == MATCH for at in self._closure(state, before, ""))

    def _search(self, text: str, start: int) -> Slots | None:
        """Return the slots of the leftmost match at or after `start`, of the threads the most preferred."""
        code = self._program.code
        threads: list[tuple[int, Slots]] = []
        found: Slots | None = None
        empty = (-1,) * (2 * self.groups + 2)
        for position in range(start, len(text) + 1):
            before = text[position - 1] if position else ""
            after = text[position] if position < len(text) else ""
            seen: set[int] = set()
            current: list[tuple[int, Slots]] = []
            starting = [] if found is not None else [(0, (position, *empty[1:]))]
            for at, slots in (*threads, *starting):
                self._follow(at, slots, position, before, after, seen, current)
            threads = []
            for at, slots in current:
                opcode, test, _ = code[at]
                if opcode == MATCH:
                    found = (slots[0], position, *slots[2:])
                    break  # the threads after it are less preferred
                if after and test(after):  # type: ignore[operator]
                    threads.append((at + 1, slots))
            if not threads and found is not None:
                break
        return found

    def _follow(self, at: int, slots: Slots, position: int, before: str, after: str, seen: set[int],
                out: list[tuple[int, Slots]]) -> None:
        """Append the instructions that a thread reaches without taking a character, the preferred first."""
        code = self._program.code
        stack = [(at, slots)]
        while stack:
            at, slots = stack.pop()
            if at in seen:
                continue
            seen.add(at)
            opcode, x, y = code[at]
            if opcode == SPLIT:
                stack.append((y, slots))
                stack.append((x, slots))  # type: ignore[arg-type]
            elif opcode == JUMP:
                stack.append((x, slots))  # type: ignore[arg-type]
            elif opcode == SAVE:
                stack.append((at + 1, (*slots[:x], position, *slots[x + 1:])))  # type: ignore[index, operator]
            elif opcode == ASSERT:
                if _holds(x, before, after):  # type: ignore[arg-type]
                    stack.append((at + 1, slots))
            else:
                out.append((at, slots))

    def replace(self, text: bytes, rewrite: bytes, everywhere: bool) -> bytes:
        r"""Return the text with the first match, or all, rewritten.

        Parameters
        ----------
        rewrite : bytes
            ``\0`` is the match, ``\1`` to ``\9`` a group, ``\\`` a backslash. Where it names a group that the pattern
            lacks the text stays as it is. An escape that means nothing ends what is written for a match.
        """
        decoded = text.decode("utf-8", _INVALID_BYTES)
        parts, valid = _parse_rewrite(rewrite.decode("utf-8", _INVALID_BYTES))
        if any(isinstance(part, int) and part > self.groups for part in parts) or not (valid or everywhere):
            return text
        result: list[str] = []
        position = 0
        last_end = -1
        while position <= len(decoded):
            slots = self._search(decoded, position)
            if slots is None:
                break
            begin, end = slots[0], slots[1]
            if begin == end == last_end:  # an empty match right after the last one is none
                result.append(decoded[position:position + 1])
                position += 1
                last_end = -1
                continue
            result.append(decoded[position:begin])
            for part in parts:
                if isinstance(part, str):
                    result.append(part)
                elif slots[2 * part] >= 0:
                    result.append(decoded[slots[2 * part]:slots[2 * part + 1]])
            position = last_end = end
            if not everywhere:
                break
        result.append(decoded[position:])
        return "".join(result).encode("utf-8", _INVALID_BYTES)


def _parse_rewrite(rewrite: str) -> tuple[list[str | int], bool]:
    """Return the literal texts and group numbers of a rewrite, and whether it has a meaning to its end."""
    parts: list[str | int] = []
    at = 0
    while at < len(rewrite):
        c = rewrite[at]
        if c != "\\":
            parts.append(c)
        else:
            at += 1
            escaped = rewrite[at:at + 1]
            if escaped and escaped in "0123456789":
                parts.append(int(escaped))
            elif escaped == "\\":
                parts.append("\\")
            else:
                return parts, False
        at += 1
    return parts, True


@lru_cache(maxsize=128)
def compile_regex(pattern: bytes) -> Regex:
    """Return a compiled pattern, kept for the next call with the same text."""
    return Regex(pattern)
