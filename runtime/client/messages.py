"""Messages as callers give them: ours, another package's class of the same message, bytes, or a dict of fields."""

from __future__ import annotations

from typing import Any, TypeVar

from google.protobuf.message import DecodeError, Message

from runtime._ext.errors import InvalidArgument

__all__ = ["as_message", "fill_message"]

_M = TypeVar("_M", bound=Message)


def as_message(kind: type[_M], value: Any, what: str) -> _M:
    """Return a message of our class.

    Parameters
    ----------
    kind : type
        Class from `runtime.wire`.
    value : Message, bytes, dict or None
        A message of the same name from any package; its bytes; its fields by name, nested as dicts; None for an empty
        one.
    what : str
        What messages of errors call it.

    Raises
    ------
    InvalidArgument
        If it is none of these, or names no field of the message.
    """
    name = kind.DESCRIPTOR.name
    try:
        if value is None:
            return kind()
        if isinstance(value, kind):
            return value
        if isinstance(value, bytes):
            return kind.FromString(value)
        if isinstance(value, dict):
            return kind(**value)
        if hasattr(value, "SerializeToString") and value.DESCRIPTOR.name == name:
            return kind.FromString(value.SerializeToString())
    except (DecodeError, TypeError, ValueError) as error:
        fields = ", ".join(field.name for field in kind.DESCRIPTOR.fields)
        raise InvalidArgument(f"{what} is not a valid {name}: {error}; its fields: {fields}") from error
    raise InvalidArgument(f"{what} must be a {name} message, its bytes or a dict of its fields, got "
                          f"{type(value).__name__}")


def fill_message(target: Any, source: bytes) -> None:
    """Write a message's bytes into a message of the same name, from any package, that a caller wants filled."""
    target.Clear()
    target.MergeFromString(source)
