"""The types of a node from its attrs, and the checks of attrs, with TensorFlow's texts.

Types are worked out once per op and attr values, however many nodes share them: graphs have tens of thousands of nodes
and a few dozen distinct signatures.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from runtime._ext.errors import InvalidArgument, NotFound
from runtime.dtypes import REF_OFFSET, DataType, base
from runtime.graph.node import Node, attr_value
from runtime.ops import opdef
from runtime.ops.opdef import ArgDef, AttrDef, OpDef

__all__ = ["Signature", "check_node", "check_versions", "describe", "signature_of", "type_label"]

GRAPH_VERSION = 2474
"""The version of GraphDef that is understood here: TensorFlow 2.21's."""
_MIN_PRODUCER = 0

# One node may not claim more outputs or inputs than this: a count is an attr of a few bytes, the tuple it makes is not.
_MAX_ARITY = 1 << 20

# Signatures outlive sessions, so what one client makes them remember is bounded.
_MAX_KNOWN = 4096

Types = tuple[tuple[int, ...], tuple[int, ...]]


def type_label(kind: int) -> str:
    """Return the name of a type as TensorFlow prints it; references end in ``_ref``."""
    try:
        return f"{base(kind).label}_ref" if kind > REF_OFFSET else DataType(kind).label
    except ValueError:
        return f"unknown dtype enum ({kind})"


def describe(op_def: OpDef) -> str:
    """Return an op's definition in one line, as messages show it."""
    inputs = ", ".join(_describe_arg(arg) for arg in op_def.inputs)
    outputs = ", ".join(_describe_arg(arg) for arg in op_def.outputs)
    stateful = "; is_stateful=true" if op_def.is_stateful else ""
    return f"Op<name={op_def.name}; signature={inputs} -> {outputs}{stateful}>"


def _describe_arg(arg: ArgDef) -> str:
    kind = arg.list_attr or arg.type_attr or (arg.dtype.label if arg.dtype is not None else "?")
    if arg.number_attr is not None:
        kind = f"{arg.number_attr}*{kind}"
    return f"{arg.name}:Ref({kind})" if arg.is_ref else f"{arg.name}:{kind}"


class Signature:
    """The types of one op's nodes, remembered by the attrs that decide them.

    Parameters
    ----------
    op_def : OpDef
        Of a registered op, or made from a library function's signature.
    is_registered : bool
        Which of the two it is.
    """

    __slots__ = ("_known", "_single", "is_registered", "keys", "op_def")

    def __init__(self, op_def: OpDef, *, is_registered: bool = True) -> None:
        self.op_def = op_def
        self.is_registered = is_registered
        keys: dict[str, AttrDef] = {}
        for arg in (*op_def.inputs, *op_def.outputs):
            for name in (arg.type_attr, arg.number_attr, arg.list_attr):
                if name is not None:
                    keys[name] = op_def.attrs[name]
        self.keys = tuple(keys.values())
        self._known: dict[Any, Types] = {}
        only = self.keys[0] if len(self.keys) == 1 else None
        self._single = only.name if only is not None and only.kind == "type" and not only.has_default else None

    def types(self, proto: Any) -> Types:
        """Return input and output types of a node.

        Raises
        ------
        NotFound
            If an attr that decides a type is missing and has no default.
        InvalidArgument
            If such an attr is of the wrong kind or has a value that the op does not allow.
        """
        if self._single is not None:  # by far the most nodes: one type attr, always given
            attr = proto.attr.get(self._single)
            if attr is not None:
                found = self._known.get(attr.type)
                if found is not None:
                    return found
        values = {attr.name: self._read(proto, attr) for attr in self.keys}
        key = (
            values[self._single]
            if self._single is not None
            else tuple(tuple(value) if isinstance(value, list) else value for value in values.values())
        )
        found = self._known.get(key)
        if found is None:
            for attr in self.keys:
                check_attr(proto, self.op_def, attr, values[attr.name])
            found = (self._expand(proto, self.op_def.inputs, values), self._expand(proto, self.op_def.outputs, values))
            if len(self._known) >= _MAX_KNOWN:
                self._known.clear()
            self._known[key] = found
        return found

    def _read(self, proto: Any, attr: AttrDef) -> Any:
        value = proto.attr.get(attr.name)
        if value is None:
            if attr.has_default:
                return attr.default
            raise NotFound(f"No attr named '{attr.name}' in NodeDef:\n\t [[{{{{node {proto.name}}}}}]]")
        return read_attr(proto, self.op_def, attr, value)

    def _expand(self, proto: Any, args: tuple[ArgDef, ...], values: dict[str, Any]) -> tuple[int, ...]:
        types: list[int] = []
        for arg in args:
            if arg.list_attr is not None:
                kinds = [int(kind) for kind in values[arg.list_attr]]
            else:
                kind = int(arg.dtype) if arg.dtype is not None else int(values[arg.type_attr or ""])
                count = 1 if arg.number_attr is None else values[arg.number_attr]
                if count < 0 or count + len(types) > _MAX_ARITY:
                    raise InvalidArgument(
                        f"Value for attr '{arg.number_attr}' of {count} must be between 0 and {_MAX_ARITY}"
                        f"\n\t; NodeDef: {{{{node {proto.name}}}}}; {describe(self.op_def)}"
                    )
                kinds = [kind] * count
            if arg.is_ref:
                kinds = [kind + REF_OFFSET if kind <= REF_OFFSET else kind for kind in kinds]
            types.extend(kinds)
        return tuple(types)


@cache  # as many as there are op types
def _registered_signature(op: str) -> Signature:
    found = opdef.lookup(op)
    assert found is not None
    return Signature(found)


def signature_of(op: str) -> Signature | None:
    """Return the signature of a registered op type, or None when the type is not known."""
    return None if opdef.lookup(op) is None else _registered_signature(op)


_FIELD_OF_KIND = {
    "int": "i",
    "float": "f",
    "bool": "b",
    "string": "s",
    "type": "type",
    "shape": "shape",
    "tensor": "tensor",
    "func": "func",
}


def read_attr(proto: Any, op_def: OpDef, attr: AttrDef, value: Any) -> Any:
    """Return an attr's value after checking that it is of the declared kind.

    Raises
    ------
    InvalidArgument
        If it is not, or is a placeholder of a function that was never filled in.
    """
    which = value.WhichOneof("value")
    wanted = "list" if attr.kind.startswith("list(") else _FIELD_OF_KIND.get(attr.kind, attr.kind)
    if which != wanted and not (which is None and wanted == "list"):
        if wanted == "type" and which != "placeholder":
            text = "AttrValue has invalid DataType"
        elif which == "placeholder":
            text = f"AttrValue had value with unexpected type 'placeholder' ({value.placeholder!r})"
        else:
            text = f"AttrValue had value with type '{which or 'none'}' when '{attr.kind}' expected"
        raise InvalidArgument(
            f"{text}\n\t for attr '{attr.name}'\n\t; NodeDef: {{{{node {proto.name}}}}}; {describe(op_def)}"
        )
    try:
        return attr_value(value, attr.kind)
    except ValueError:  # a DataType number from the future
        raise _invalid_type(proto, op_def, attr) from None


def _invalid_type(proto: Any, op_def: OpDef, attr: AttrDef) -> InvalidArgument:
    return InvalidArgument(
        f"AttrValue has invalid DataType\n\t for attr '{attr.name}'\n\t; NodeDef: "
        f"{{{{node {proto.name}}}}}; {describe(op_def)}"
    )


def check_attr(proto: Any, op_def: OpDef, attr: AttrDef, value: Any) -> None:
    """Check an attr's value against its declaration: known types, allowed values, the minimum.

    Raises
    ------
    InvalidArgument
        In TensorFlow's words.
    """
    is_list = isinstance(value, list)
    if attr.kind in ("type", "list(type)"):
        for kind in value if is_list else (value,):
            if kind == DataType.INVALID:
                raise _invalid_type(proto, op_def, attr)
            if kind > REF_OFFSET:
                raise InvalidArgument(
                    f"AttrValue must not have reference type value of {type_label(kind)}\n\t for attr "
                    f"'{attr.name}'\n\t; NodeDef: {{{{node {proto.name}}}}}; {describe(op_def)}"
                )
    if attr.allowed is not None:
        for item in value if is_list else (value,):
            if item not in attr.allowed and not _left_to_the_kernel(item):
                text = f'"{item.decode("utf-8", "replace")}"' if isinstance(item, bytes) else type_label(item)
                choices = ", ".join(
                    sorted(
                        f'"{choice.decode()}"' if isinstance(choice, bytes) else type_label(choice)
                        for choice in attr.allowed
                    )
                )
                raise InvalidArgument(
                    f"Value for attr '{attr.name}' of {text} is not in the list of allowed values: "
                    f"{choices}\n\t; NodeDef: {{{{node {proto.name}}}}}; {describe(op_def)}"
                )
    if attr.minimum is not None:
        size = len(value) if is_list else value
        if isinstance(size, int) and size < attr.minimum:
            what = "Length" if is_list else "Value"
            raise InvalidArgument(
                f"{what} for attr '{attr.name}' of {size} must be at least minimum {attr.minimum}"
                f"\n\t; NodeDef: {{{{node {proto.name}}}}}; {describe(op_def)}"
            )


# opdefs.txt leaves these types out of its sets; whether an op takes them is the kernel's to say.
_OUTSIDE_THE_SETS = frozenset({DataType.QINT8, DataType.QUINT8, DataType.QINT16, DataType.QUINT16, DataType.QINT32})


def _left_to_the_kernel(kind: Any) -> bool:
    return isinstance(kind, DataType) and (kind in _OUTSIDE_THE_SETS or kind >= DataType.FLOAT8_E5M2)


@cache  # as many as there are op types
def _unchecked_attrs(op: str) -> tuple[AttrDef, ...]:
    """Return the attrs that do not decide types; those were checked when the node was made."""
    signature = signature_of(op)
    if signature is None:
        return ()
    return tuple(attr for attr in signature.op_def.attrs.values() if attr not in signature.keys)


def check_node(node: Node) -> None:
    """Check every declared attr of a node: present or with a default, of its kind, allowed.

    Attrs that the definition does not know are ignored, as TensorFlow does: newer clients send some.

    Raises
    ------
    InvalidArgument
        For the first attr that is wrong.
    """
    op_def = node.op_def
    if op_def is None:
        return
    for attr in _unchecked_attrs(node.op):
        value = node.proto.attr.get(attr.name)
        if value is None:
            if not attr.has_default:
                raise InvalidArgument(
                    f"NodeDef missing attr '{attr.name}' from {describe(op_def)}; NodeDef: {{{{node {node.name}}}}}"
                )
        elif (
            attr.allowed is None and attr.minimum is None and value.WhichOneof("value") == _FIELD_OF_KIND.get(attr.kind)
        ):
            continue  # of its kind, and there is no more to it
        else:
            check_attr(node.proto, op_def, attr, read_attr(node.proto, op_def, attr, value))


def check_versions(versions: Any) -> None:
    """Check the VersionDef of a graph.

    Raises
    ------
    InvalidArgument
        If its producer asked that consumers like this one leave the graph alone.
    """
    if versions.producer < _MIN_PRODUCER:
        raise InvalidArgument(
            f"GraphDef producer version {versions.producer} below min producer {_MIN_PRODUCER} "
            "supported by TensorFlow 2.21.0.  Please regenerate your graph."
        )
    if versions.min_consumer > GRAPH_VERSION:
        raise InvalidArgument(
            f"GraphDef min consumer version {versions.min_consumer} above current version "
            f"{GRAPH_VERSION} for TensorFlow 2.21.0.  Please upgrade TensorFlow."
        )
    if GRAPH_VERSION in versions.bad_consumers:
        raise InvalidArgument(
            f"GraphDef disallows consumer version {GRAPH_VERSION}.  Please upgrade TensorFlow: this "
            "version is likely buggy."
        )
