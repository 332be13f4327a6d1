"""Lookup tables: hash tables filled once, mutable ones, and dense ones with their layout."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime._ext.errors import InvalidArgument
from runtime._ext.variable import ResourceHandle, Variable
from runtime.dtypes import DataType, base, is_ref
from runtime.ops.handles import finder, handle_array, make_handle, resource_place
from runtime.ops.partial_shapes import known
from runtime.ops.registry import kernel
from runtime.ops.shapes import format_shape, scalar
from runtime.ops.state.dense_table import DenseTable
from runtime.ops.state.table import HashTable, MutableTable, Table
from runtime.ops.table_files import fill_from_text_file

if TYPE_CHECKING:
    from runtime.graph.node import Node
    from runtime.ops.registry import Shape
    from runtime.step.environment import KernelEnv

__all__ = ["TABLE", "table_finder"]

TABLE = "N10tensorflow6lookup15LookupInterfaceE"
"""Kind of tables in the resource manager, as TensorFlow's handles have it."""

Run = Callable[..., Any]


def table_finder(env: KernelEnv) -> Callable[[Any], Table]:
    """Return a function that gives the table which a handle names."""
    return finder(env, Table, TABLE, "a lookup table")


# Making tables


def _maker(node: Node) -> Callable[..., Table]:
    """Return what makes a node's table of its inputs."""
    key, value = DataType(node.attr("key_dtype")), DataType(node.attr("value_dtype"))
    kind = node.op.removeprefix("Anonymous").removesuffix("V2")
    if kind == "HashTable":
        return lambda: HashTable(key, value)
    if kind == "MutableHashTable":
        return lambda: MutableTable(key, value)
    shape = known(node.attr("value_shape"))
    if shape is None:
        raise InvalidArgument(f"value_shape must be fully known, got {format_shape(node.attr('value_shape'))}")
    if kind == "MutableHashTableOfTensors":
        if len(shape) != 1:
            raise InvalidArgument(f"Default value must be a vector, got shape {format_shape(shape)}")
        return lambda: MutableTable(key, value, shape)
    buckets, max_load = node.attr("initial_num_buckets"), node.attr("max_load_factor")
    return lambda empty, deleted: DenseTable(key, value, shape, empty, deleted, buckets, max_load)


def _handle_shape(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    return [(2,) if is_ref(node.output_types[0]) else ()]


@kernel("HashTable", "HashTableV2", "MutableHashTable", "MutableHashTableV2", "MutableHashTableOfTensors",
        "MutableHashTableOfTensorsV2", "MutableDenseHashTableV2", shape=_handle_shape)
def make_table(node: Node, env: KernelEnv) -> Run:
    create = _maker(node)
    place = container, name = resource_place(node, env, TABLE, by_node_name=node.attr("use_node_name_sharing"))
    key, value = DataType(node.attr("key_dtype")), DataType(node.attr("value_dtype"))
    resources = env.session.resources
    made: tuple[Table, Any] | None = None

    def run(*keys: Any) -> Any:
        nonlocal made
        table = resources.lookup_or_create(container, TABLE, name, lambda: create(*keys))
        if made is None or made[0] is not table:
            if (table.key_type, table.value_type) != (key, value):
                raise InvalidArgument(f"Conflicting key/value dtypes {key.label}->{value.label} with "
                                      f"{table.key_type.label}-{table.value_type.label} for table {name}")
            made = table, make_handle(node, env, place, TABLE, table)
        return made[1]

    return run


@kernel("AnonymousHashTable", "AnonymousMutableHashTable", "AnonymousMutableHashTableOfTensors",
        "AnonymousMutableDenseHashTable", shape=scalar)
def make_anonymous_table(node: Node, env: KernelEnv) -> Run:
    """Make a new table in every step, which lives as long as its handle."""
    create, session, device = _maker(node), env.session, env.device.name

    def run(*keys: Any) -> Any:
        return handle_array(ResourceHandle(device, "", session.private_name(node.name), TABLE, create(*keys)))

    return run


# Filling tables


def _check_types(node: Node, table: Table) -> None:
    """Check that a node's keys and values have the types of the table.

    Raises
    ------
    InvalidArgument
    """
    have_in = [base(kind) for kind in node.input_types[1:]]
    have_out = [base(kind) for kind in node.output_types]
    kinds = [table.key_type, table.value_type]
    want_in = [] if node.op.startswith("LookupTableExport") else kinds[:len(have_in)]
    want_out = kinds[1:] if node.op.startswith("LookupTableFind") else kinds if not have_in else []
    if have_in != want_in or have_out != want_out:
        handle = "string_ref" if is_ref(node.input_types[0]) else "resource"
        raise InvalidArgument(f"Signature mismatch, have: {_labels([handle, *have_in])}->{_labels(have_out)} expected: "
                              f"{_labels([handle, *want_in])}->{_labels(want_out)}")


def _labels(kinds: Sequence[Any]) -> str:
    return ", ".join(kind.label if isinstance(kind, DataType) else kind for kind in kinds)


def _not_initializable(handle: Any) -> InvalidArgument:
    named = handle if isinstance(handle, Variable) else handle.item()
    return InvalidArgument(f"Table {named.container} {named.name} is not initializable")


@kernel("InitializeTable", "InitializeTableV2")
def initialize_table(node: Node, env: KernelEnv) -> Run:
    find = table_finder(env)

    def run(handle: Any, keys: Any, values: Any) -> None:
        table = find(handle)
        if not isinstance(table, HashTable):
            raise _not_initializable(handle)
        _check_types(node, table)
        for name, array in (("Keys", keys), ("Values", values)):
            if array.ndim != 1:
                raise InvalidArgument(f"{name} must be a vector, but received shape{format_shape(array.shape)}")
        if keys.size != values.size:
            raise InvalidArgument(f"Keys and values must have the same size {keys.size} vs {values.size}")
        table.initialize(keys, values)

    return run


@kernel("InitializeTableFromTextFile", "InitializeTableFromTextFileV2", host=(1,))
def initialize_table_from_text_file(node: Node, env: KernelEnv) -> Run:
    find, files = table_finder(env), env.session.files
    delimiter: bytes = node.attr("delimiter")
    settings = {name: int(node.attr(name)) for name in ("vocab_size", "key_index", "value_index", "offset")}
    if len(delimiter) != 1:
        raise InvalidArgument("delimiter should be only 1 char")

    def run(handle: Any, filename: Any) -> None:
        table = find(handle)
        if filename.ndim:
            raise InvalidArgument(f"filename should be a single string, but got {format_shape(filename.shape)}")
        path = filename.item()
        if not path:
            raise InvalidArgument("filename cannot be empty.")
        if not isinstance(table, HashTable):
            raise _not_initializable(handle)
        fill_from_text_file(table, files.check(os.fsdecode(path)), delimiter=delimiter, **settings)

    return run


# Keys and values


def _found_shape(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    source = node.inputs[0][0] if node.inputs else None
    keys = shapes[1]
    if source is None or keys is None or source.op.removesuffix("V2") not in ("HashTable", "MutableHashTable"):
        return [None]
    return [keys]


@kernel("LookupTableFind", "LookupTableFindV2", shape=_found_shape)
def table_find(node: Node, env: KernelEnv) -> Run:
    find = table_finder(env)

    def run(handle: Any, keys: Any, default: Any) -> Any:
        table = find(handle)
        _check_types(node, table)
        table.check_find(keys, default)
        return table.find(keys, default)

    return run


@kernel("LookupTableInsert", "LookupTableInsertV2")
def table_insert(node: Node, env: KernelEnv) -> Run:
    find = table_finder(env)

    def run(handle: Any, keys: Any, values: Any) -> None:
        table = find(handle)
        _check_types(node, table)
        table.check_entries(keys, values)
        table.insert(keys, values)

    return run


@kernel("LookupTableRemoveV2")
def table_remove(node: Node, env: KernelEnv) -> Run:
    find = table_finder(env)

    def run(handle: Any, keys: Any) -> None:
        table = find(handle)
        _check_types(node, table)
        table.check_keys(keys)
        table.remove(keys)

    return run


@kernel("LookupTableImport", "LookupTableImportV2")
def table_import(node: Node, env: KernelEnv) -> Run:
    find = table_finder(env)

    def run(handle: Any, keys: Any, values: Any) -> None:
        table = find(handle)
        _check_types(node, table)
        table.check_import(keys, values)
        table.replace(keys, values)

    return run


@kernel("LookupTableExport", "LookupTableExportV2", shape=lambda node, shapes: [None, None])
def table_export(node: Node, env: KernelEnv) -> Run:
    find = table_finder(env)

    def run(handle: Any) -> Any:
        table = find(handle)
        _check_types(node, table)
        return table.entries()

    return run


@kernel("LookupTableSize", "LookupTableSizeV2", shape=scalar)
def table_size(node: Node, env: KernelEnv) -> Run:
    find = table_finder(env)
    return lambda handle: np.int64(find(handle).size())
