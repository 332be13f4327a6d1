"""The descriptor pool of this package and the classes made from it.

Message types of other packages carry the same full names as ours (``tensorflow.GraphDef`` in TensorFlow), and a
descriptor pool accepts a name once. So nothing of ours enters protobuf's default pool: ``descriptors.binpb``, the
compiled set of every ``.proto`` in this folder, is loaded into a pool of our own when the first message module is
imported. Classes of two pools never mix: convert through bytes, ``FromString(other.SerializeToString())``.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from typing import Any

from google.protobuf import descriptor_pb2, message_factory
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper

DESCRIPTOR_SET = "descriptors.binpb"


def _load() -> tuple[DescriptorPool, tuple[str, ...]]:
    """Read the descriptor set and return a pool that holds it, with the names of its files."""
    pool = DescriptorPool()
    try:
        data = pkgutil.get_data(__package__, DESCRIPTOR_SET)
    except FileNotFoundError as error:
        raise ImportError(
            f"{__package__}: {DESCRIPTOR_SET} is missing; build it with `python setup.py build_ext --inplace`"
        ) from error
    if data is None:
        raise ImportError(f"{__package__}: {DESCRIPTOR_SET} cannot be read through this package's loader")
    files = descriptor_pb2.FileDescriptorSet.FromString(data).file
    for file in files:
        pool.AddSerializedFile(file.SerializeToString())
    return pool, tuple(file.name for file in files)


POOL, FILES = _load()


def file_of(module: str) -> FileDescriptor:
    """Return the descriptor of the ``.proto`` beside a ``*_pb2`` module.

    Parameters
    ----------
    module : str
        Dotted module name, as in ``runtime.proto.tensorflow.graph_pb2``.

    Raises
    ------
    ImportError
        The compiled set has no such file.
    """
    name = module.removesuffix("_pb2").replace(".", "/") + ".proto"
    try:
        return POOL.FindFileByName(name)
    except KeyError:
        raise ImportError(
            f"{module}: {DESCRIPTOR_SET} holds no {name}; build it again with `python setup.py build_ext --inplace`"
        ) from None


def export(module: str, namespace: dict[str, Any]) -> None:
    """Fill a ``*_pb2`` module with the classes, enums and enum values of its ``.proto``."""
    file = file_of(module)
    namespace["DESCRIPTOR"] = file
    for name, descriptor in file.message_types_by_name.items():
        cls = message_factory.GetMessageClass(descriptor)
        cls.__module__ = module
        namespace[name] = cls
    for name, enum in file.enum_types_by_name.items():
        namespace[name] = EnumTypeWrapper(enum)
        for value in enum.values:
            namespace[value.name] = value.number


@functools.cache
def names(package: str) -> dict[str, str]:
    """Return every top-level message, enum and enum value of a package's files, and the module it is in."""
    prefix = package.replace(".", "/") + "/"
    found: dict[str, str] = {}
    for file_name in FILES:
        stem = file_name.removeprefix(prefix).removesuffix(".proto")
        if file_name.startswith(prefix) and "/" not in stem:
            file = POOL.FindFileByName(file_name)
            values = [value.name for enum in file.enum_types_by_name.values() for value in enum.values]
            module = f"{package}.{stem}_pb2"
            found.update(dict.fromkeys([*file.message_types_by_name, *file.enum_types_by_name, *values], module))
    return found


def lookup(package: str, name: str) -> Any:
    """Return a message class, an enum or an enum value of a package by its name.

    Raises
    ------
    AttributeError
        No ``.proto`` of the package declares the name.
    """
    module = names(package).get(name)
    if module is None:
        raise AttributeError(f"module {package!r} has no attribute {name!r}")
    return getattr(importlib.import_module(module), name)
