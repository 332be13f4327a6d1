"""The functions of a graph, and their bodies as graphs.

A FunctionDef is a template: its nodes name inputs as ``node:output_arg:index`` and its attrs may be placeholders that
the caller fills in. `FunctionLibrary.body` makes an ordinary `Graph` of it, once per set of attrs.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from runtime import wire
from runtime._ext.errors import InvalidArgument, NotFound
from runtime.dtypes import DataType
from runtime.graph.node import Node, attr_value
from runtime.graph.validate import Signature
from runtime.ops import opdef
from runtime.ops.opdef import ArgDef, AttrDef, OpDef

if TYPE_CHECKING:
    from runtime.graph.graph import Graph

__all__ = ["FunctionBody", "FunctionLibrary"]

# Bodies are cheap to make again; a client that calls one function with ever new attrs must not fill the memory.
_MAX_BODIES_PER_FUNCTION = 256


@dataclass(frozen=True, slots=True)
class FunctionBody:
    """A function for one set of attrs.

    Attributes
    ----------
    name : str
    graph : Graph
        Its nodes, with an ``_Arg`` node per input tensor.
    inputs : list of Node
        The ``_Arg`` nodes, by index.
    outputs : list of (Node, int)
        Where each output tensor comes from.
    control_outputs : list of Node
        Nodes that must run in every call, needed by an output or not.
    input_types, output_types : tuple of int
        DataType numbers.
    is_stateful : bool
        Whether the signature, or a node of the body, is stateful.
    """

    name: str
    graph: Graph
    inputs: list[Node]
    outputs: list[tuple[Node, int]]
    control_outputs: list[Node]
    input_types: tuple[int, ...]
    output_types: tuple[int, ...]
    is_stateful: bool


class FunctionLibrary:
    """Functions by name. Functions are added, never changed or removed.

    Safe from several threads.
    """

    def __init__(self, library: Any = None) -> None:
        self._functions: dict[str, Any] = {}
        self._gradients: dict[str, str] = {}
        self._signatures: dict[str, Signature] = {}
        self._bodies: dict[str, dict[Any, FunctionBody]] = {}
        self._lock = threading.Lock()
        self._extras: list[Any] = []
        if library is not None:
            self.add(library)

    def __contains__(self, name: str) -> bool:
        return name in self._functions

    def __len__(self) -> int:
        return len(self._functions)

    def names(self) -> list[str]:
        """Return the names of all functions, in the order in which they were added."""
        return list(self._functions)

    def get(self, name: str) -> Any:
        """Return a function's FunctionDef message.

        Raises
        ------
        NotFound
            If there is none of that name.
        """
        found = self._functions.get(name)
        if found is None:
            raise NotFound(f"Function {name} is not defined.")
        return found

    def gradient_of(self, name: str) -> str | None:
        """Return the name of the function registered as a function's gradient, if there is one."""
        return self._gradients.get(name)

    def check(self, library: Any) -> list[Any]:
        """Return the functions of a FunctionDefLibrary that are new here.

        Raises
        ------
        InvalidArgument
            If one differs from the function of that name that is here, or takes the name of an op.
        """
        fresh: dict[str, Any] = {}
        for function in library.function:
            name = function.signature.name
            known = self._functions.get(name) or fresh.get(name)
            if known is None:
                if opdef.lookup(name) is not None:
                    raise InvalidArgument(
                        f"Cannot add function '{name}' because an op with the same name already exists."
                    )
                fresh[name] = function
            elif known != function:
                raise InvalidArgument(
                    f"Cannot add function '{name}' because a different function with the same name already exists."
                )
        seen: dict[str, str] = {}
        for entry in library.gradient:
            known_gradient = self._gradients.get(entry.function_name, seen.get(entry.function_name))
            if known_gradient not in (None, entry.gradient_func):
                raise InvalidArgument(
                    f"Cannot assign gradient function '{entry.gradient_func}' to "
                    f"'{entry.function_name}' because it already has gradient function "
                    f"'{known_gradient}'"
                )
            seen[entry.function_name] = entry.gradient_func
        return list(fresh.values())

    def add(self, library: Any) -> None:
        """Add the functions and gradients of a FunctionDefLibrary: all, or none and an error (see `check`)."""
        fresh = self.check(library)
        self._functions.update((function.signature.name, function) for function in fresh)
        self._gradients.update((entry.function_name, entry.gradient_func) for entry in library.gradient)
        if fresh or library.gradient:
            self._extras.append(library)

    def to_proto(self) -> Any:
        """Return everything as one FunctionDefLibrary message, unknown fields included."""
        merged = wire.FunctionDefLibrary()
        for library in self._extras:
            merged.MergeFrom(library)
        del merged.function[:]
        del merged.gradient[:]
        merged.function.extend(self._functions.values())
        for name, gradient in self._gradients.items():
            merged.gradient.add(function_name=name, gradient_func=gradient)
        return merged

    def signature(self, name: str) -> Signature | None:
        """Return what gives the types of a call of a function, or None when there is no such function."""
        found = self._signatures.get(name)
        if found is None and name in self._functions:
            found = self._signatures.setdefault(
                name, Signature(signature_op(self._functions[name].signature), is_registered=False)
            )
        return found

    def body(self, name: str, attrs: Mapping[str, Any] | None = None) -> FunctionBody:
        """Return a function's body.

        Parameters
        ----------
        name : str
        attrs : mapping of str to AttrValue message, optional
            Attrs of the call, for the function's placeholders. Those that its signature does not declare are ignored;
            those that are not given have the declared defaults.

        Raises
        ------
        NotFound
            If there is no such function, or it needs an attr that is not given.
        InvalidArgument
            If its body is no valid graph.
        """
        function = self.get(name)
        given = {}
        for declared in function.signature.attr:
            value = attrs.get(declared.name) if attrs is not None else None
            if value is None and declared.HasField("default_value"):
                value = declared.default_value
            if value is not None:
                given[declared.name] = value
        key = tuple((attr, value.SerializeToString(deterministic=True)) for attr, value in sorted(given.items()))
        with self._lock:
            found = self._bodies.setdefault(name, {}).get(key)
        if found is None:
            from runtime.graph.instantiate import instantiate  # needs Graph, which needs this module

            made = instantiate(function, given, self)
            with self._lock:
                bodies = self._bodies[name]
                if len(bodies) >= _MAX_BODIES_PER_FUNCTION:
                    bodies.clear()
                found = bodies.setdefault(key, made)
        return found


def signature_op(signature: Any) -> OpDef:
    """Return an OpDef message (a function's signature) as an `OpDef`.

    Raises
    ------
    InvalidArgument
        If an argument names an attr that is not declared, or has no type.
    """
    attrs = {attr.name: _attr_def(attr) for attr in signature.attr}
    return OpDef(
        signature.name,
        tuple(_arg_defs(signature, signature.input_arg, attrs)),
        tuple(_arg_defs(signature, signature.output_arg, attrs)),
        attrs,
        signature.is_stateful,
    )


def _attr_def(attr: Any) -> AttrDef:
    has_default = attr.HasField("default_value")
    allowed = None
    if attr.HasField("allowed_values"):
        allowed = frozenset(attr_value(attr.allowed_values, f"list({attr.type.removeprefix('list(').rstrip(')')})"))
    return AttrDef(
        attr.name,
        attr.type,
        allowed,
        attr.minimum if attr.has_minimum else None,
        attr_value(attr.default_value, attr.type) if has_default else None,
        has_default,
    )


def _arg_defs(signature: Any, args: Iterable[Any], attrs: Mapping[str, AttrDef]) -> Iterable[ArgDef]:
    for arg in args:
        for name in (arg.type_attr, arg.number_attr, arg.type_list_attr):
            if name and name not in attrs:
                raise InvalidArgument(
                    f"Function {signature.name}: argument '{arg.name}' names the attr '{name}', which "
                    "the signature does not declare"
                )
        if not arg.type and not arg.type_attr and not arg.type_list_attr:
            raise InvalidArgument(f"Function {signature.name}: argument '{arg.name}' has no type")
        try:
            dtype = DataType(arg.type) if arg.type else None
        except ValueError:
            raise InvalidArgument(
                f"Function {signature.name}: argument '{arg.name}' has the type {arg.type}, which is not known here"
            ) from None
        yield ArgDef(
            arg.name, dtype, arg.type_attr or None, arg.number_attr or None, arg.type_list_attr or None, arg.is_ref
        )
