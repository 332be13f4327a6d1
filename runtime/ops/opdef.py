"""What an op type is: its arguments, attrs and whether it is stateful.

The facts lie in ``opdefs.txt``, one line per op, and are parsed when a type is first asked for, so that loading the
registry costs a file read and no more.
"""

from __future__ import annotations

import ast
import re
import struct
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib import resources
from typing import Any

from runtime.dtypes import DataType, as_datatype

__all__ = ["ArgDef", "AttrDef", "OpDef", "lookup", "names", "sections"]

_FLOAT = ("f16", "bf16", "f32", "f64")
_INTEGERS = ("i8", "i16", "i32", "i64", "u8", "u16", "u32", "u64")
_COMPLEX = ("c64", "c128")
_GROUPS: dict[str, tuple[str, ...]] = {
    "floats": _FLOAT,
    "real": (*_FLOAT, *_INTEGERS),
    "complex": _COMPLEX,
    "num": (*_FLOAT, *_INTEGERS, *_COMPLEX),
    "idx": ("i32", "i64"),
}
_DTYPE_NAMES = frozenset({"f16", "bf16", "f32", "f64", *_INTEGERS, *_COMPLEX, "bool", "str", "res", "variant"})
_SCALAR_KINDS = frozenset({"int", "float", "bool", "string", "shape", "tensor", "func", "type"})


@dataclass(frozen=True, slots=True)
class ArgDef:
    """One input or output argument.

    Attributes
    ----------
    name : str
    dtype : DataType or None
        The fixed type, or None when an attr decides.
    type_attr : str or None
        Attr of kind ``type`` that gives the type.
    number_attr : str or None
        Attr of kind ``int`` that gives how many tensors stand here.
    list_attr : str or None
        Attr of kind ``list(type)`` that gives both.
    is_ref : bool
    """

    name: str
    dtype: DataType | None = None
    type_attr: str | None = None
    number_attr: str | None = None
    list_attr: str | None = None
    is_ref: bool = False


@dataclass(frozen=True, slots=True)
class AttrDef:
    """One attr: kind (``int``, ``type``, ``list(type)``, ...), allowed values, minimum and default."""

    name: str
    kind: str
    allowed: frozenset[Any] | None = None
    minimum: int | None = None
    default: Any = None
    has_default: bool = False


@dataclass(frozen=True, slots=True)
class OpDef:
    """Definition of one op type."""

    name: str
    inputs: tuple[ArgDef, ...]
    outputs: tuple[ArgDef, ...]
    attrs: dict[str, AttrDef]
    is_stateful: bool


def _dtype_set(text: str) -> frozenset[DataType] | None:
    """Return the set that a dtype expression names, None for ``any``; raise KeyError when it is no such expression."""
    allowed: set[str] = set()
    for part in text.split("|"):
        tokens = re.findall(r"[+-]?[^+-]+", part)
        for token in tokens:
            sign, name = (token[0], token[1:]) if token[0] in "+-" else ("+", token)
            if name in ("any", "type") and len(tokens) == 1:
                return None
            members = _GROUPS.get(name) or ((name,) if name in _DTYPE_NAMES else None)
            if members is None:
                raise KeyError(name)
            if sign == "+":
                allowed.update(members)
            else:
                allowed.difference_update(members)
    return frozenset(as_datatype(name) for name in allowed)


def _default(kind: str, text: str) -> Any:
    if kind == "type":
        return as_datatype(text)
    if kind == "list(type)":
        return [as_datatype(name.strip()) for name in text.strip("[]").split(",") if name.strip()]
    if kind == "bool":
        return text == "true"
    if kind == "shape":
        return None if text == "?" else tuple(ast.literal_eval(text))
    if kind == "func":
        return text
    if kind == "list(bool)":
        return [word.strip() == "true" for word in text.strip("[]").split(",") if word.strip()]
    if kind in ("string", "list(string)"):
        value = ast.literal_eval(text)
        return value.encode() if isinstance(value, str) else [item.encode() for item in value]
    if kind == "float":
        return float(struct.unpack("<f", struct.pack("<f", float(text)))[0])  # as wide as on the wire
    if kind == "list(shape)":
        return [None if item == "?" else tuple(item) for item in ast.literal_eval(text.replace("?", "'?'"))]
    if kind == "tensor":
        return text
    return ast.literal_eval(text)


def _parse_attr(text: str) -> AttrDef:
    name, _, rest = text.strip().partition(" ")
    spec, has_default, default_text = rest.strip().partition("=")
    minimum: int | None = None
    if spec.endswith(">"):  # "int>=2=3": the first "=" belongs to ">="
        spec = spec[:-1]
        floor, has_default, default_text = default_text.partition("=")
        minimum = int(floor)
    allowed: frozenset[Any] | None = None
    kind = spec
    element = spec[5:-1] if spec.startswith("list(") else spec
    if element not in _SCALAR_KINDS:
        try:
            allowed = _dtype_set(element)
            element_kind = "type"
        except KeyError:
            allowed = frozenset(word.encode() for word in element.split("|"))
            element_kind = "string"
        kind = f"list({element_kind})" if spec.startswith("list(") else element_kind
    default = _default(kind, default_text) if has_default else None
    return AttrDef(name, kind, allowed, minimum, default, bool(has_default))


def _parse_args(text: str, attrs: dict[str, AttrDef]) -> tuple[ArgDef, ...]:
    text = text.strip()
    if text == "()":
        return ()
    args = []
    for item in text.split(","):
        name, _, spec = item.strip().partition(":")
        is_ref = spec.startswith("ref ")
        spec = spec.removeprefix("ref ").strip()
        if spec.endswith("..."):
            args.append(ArgDef(name, list_attr=spec[:-3], is_ref=is_ref))
            continue
        number, star, kind = spec.rpartition("*")
        number_attr = number if star else None
        if kind in attrs:
            args.append(ArgDef(name, type_attr=kind, number_attr=number_attr, is_ref=is_ref))
        else:
            args.append(ArgDef(name, dtype=as_datatype(kind), number_attr=number_attr, is_ref=is_ref))
    return tuple(args)


_ATTR_SPLIT = re.compile(r";(?=(?:[^']*'[^']*')*[^']*$)")


def _parse_line(name: str, is_stateful: bool, body: str) -> OpDef:
    io, _, attr_text = body.partition(" : ")
    attrs = {}
    for piece in _ATTR_SPLIT.split(attr_text):
        if piece.strip():
            attr = _parse_attr(piece)
            attrs[attr.name] = attr
    inputs, _, outputs = io.partition("->")
    return OpDef(name, _parse_args(inputs, attrs), _parse_args(outputs, attrs), attrs, is_stateful)


@lru_cache(maxsize=1)
def _lines() -> dict[str, tuple[bool, str]]:
    table = {}
    text = resources.files("runtime.ops").joinpath("opdefs.txt").read_text(encoding="utf-8")
    for line in text.splitlines():
        if line and not line.startswith("#"):
            head, _, body = line.partition(" : ")
            table[head.rstrip("*")] = (head.endswith("*"), body)
    return table


@cache  # bounded by the number of op types in the file
def _parsed(name: str) -> OpDef | None:
    entry = _lines().get(name)
    return None if entry is None else _parse_line(name, *entry)


def lookup(name: str) -> OpDef | None:
    """Return the definition of an op type, or None when it is not known."""
    return _parsed(name) if name in _lines() else None


def names() -> list[str]:
    """Return the names of all known op types, in the order of the file (tier by tier)."""
    return list(_lines())


def sections() -> dict[str, str]:
    """Return the heading that each op type stands under in the file, such as ``Tier 1: Random``."""
    found = {}
    heading = ""
    text = resources.files("runtime.ops").joinpath("opdefs.txt").read_text(encoding="utf-8")
    for line in text.splitlines():
        if line.startswith(("# Tier ", "# Internal:")):
            heading = line[2:]
        elif line and not line.startswith("#"):
            found[line.partition(" : ")[0].rstrip("*")] = heading
    return found
