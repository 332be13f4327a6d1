"""Readers of queues of file names, and whole files."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime._ext.errors import InvalidArgument
from runtime.dtypes import is_ref
from runtime.ops.files.bytestream import COMPRESSIONS
from runtime.ops.files.matching import matching_files
from runtime.ops.files.whole import read_file, write_file
from runtime.ops.handles import finder, make_handle, resource_place
from runtime.ops.objects import filled, object_scalar
from runtime.ops.queues import queue_finder
from runtime.ops.registry import kernel
from runtime.ops.shapes import format_shape, scalar
from runtime.ops.state.reader import (
    FixedLengthReader,
    IdentityReader,
    Reader,
    RecordFileReader,
    TextLineReader,
    WholeFileReader,
)

if TYPE_CHECKING:
    from runtime._ext.executor import StepContext
    from runtime.graph.node import Node
    from runtime.ops.registry import Shape
    from runtime.step.environment import KernelEnv

__all__ = ["READER"]

logger = logging.getLogger(__name__)

READER = "N10tensorflow15ReaderInterfaceE"
"""Kind of readers in the resource manager, as TensorFlow's handles have it."""

Run = Callable[..., Any]
Answer = Callable[[Any, "BaseException | None"], None]

# Names of records are made up by whoever asks; a tensor of that many would fill the memory.
_MAX_RECORDS = 1 << 26


def _finder(env: KernelEnv) -> Callable[[Any], Reader]:
    return finder(env, Reader, READER, "a reader")


# Making readers


def _compression(node: Node, attr: str, known: Sequence[str]) -> str:
    """Return the compression that an attr names; files of one that is not known are read as they are."""
    value: str = node.attr(attr).decode("utf-8", "replace")
    if value in known:
        return value
    if value:
        logger.warning("%s of node %s is '%s'; known are %s: no compression will be used", attr, node.name, value,
                       ", ".join(filter(None, known)))
    return ""


def _maker(node: Node, env: KernelEnv) -> Callable[[str], Reader]:
    """Return what makes a node's reader of its name, after a check of the attrs."""
    kind, allowed = node.op.removesuffix("V2"), env.session.files.check
    if kind == "IdentityReader":
        return lambda name: IdentityReader(kind, name, allowed)
    if kind == "WholeFileReader":
        return lambda name: WholeFileReader(kind, name, allowed)
    if kind == "TextLineReader":
        skip = int(node.attr("skip_header_lines"))
        if skip < 0:
            raise InvalidArgument(f"skip_header_lines must be >= 0 not {skip}")
        return lambda name: TextLineReader(kind, name, allowed, skip)
    if kind == "TFRecordReader":
        compression = _compression(node, "compression_type", COMPRESSIONS)
        return lambda name: RecordFileReader(kind, name, allowed, compression)
    layout = {attr: int(node.attr(attr)) for attr in ("header_bytes", "record_bytes", "footer_bytes", "hop_bytes")}
    for attr, value in layout.items():
        if value < 0:
            raise InvalidArgument(f"{attr} must be >= 0 not {value}")
    if not layout["record_bytes"]:
        raise InvalidArgument("record_bytes must be > 0 not 0")
    encoding = _compression(node, "encoding", ("ZLIB",)) if node.op.endswith("V2") else ""
    return lambda name: FixedLengthReader(kind, name, allowed, compression=encoding, **layout)


def _handle_shape(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    return [(2,) if is_ref(node.output_types[0]) else ()]


_KINDS = ("IdentityReader", "WholeFileReader", "TextLineReader", "TFRecordReader", "FixedLengthRecordReader")


@kernel(*_KINDS, *(f"{kind}V2" for kind in _KINDS), shape=_handle_shape)
def make_reader(node: Node, env: KernelEnv) -> Run:
    create = _maker(node, env)
    place = container, name = resource_place(node, env, READER)
    found: Reader = env.session.resources.lookup_or_create(container, READER, name, lambda: create(node.name))
    handle = make_handle(node, env, place, READER, found)
    return lambda: handle


# Reading


@kernel("ReaderRead", "ReaderReadV2", asynchronous=True, shape=scalar)
def reader_read(node: Node, env: KernelEnv) -> Run:
    find, queue_of = _finder(env), queue_finder(env)

    def run(step: StepContext, done: Answer, handle: Any, queue: Any) -> None:
        def finish(records: Any, error: BaseException | None) -> None:
            done(None if error is not None else tuple(map(object_scalar, records[0])), error)

        find(handle).read(step, queue_of(queue), 1, finish, up_to=False)

    return run


@kernel("ReaderReadUpTo", "ReaderReadUpToV2", asynchronous=True, shape=lambda node, shapes: [(None,), (None,)])
def reader_read_up_to(node: Node, env: KernelEnv) -> Run:
    find, queue_of = _finder(env), queue_finder(env)

    def run(step: StepContext, done: Answer, handle: Any, queue: Any, count: Any) -> None:
        if count.ndim:
            raise InvalidArgument(f"num_records must be a scalar, got shape {format_shape(count.shape)}")
        if not 0 < count <= _MAX_RECORDS:
            raise InvalidArgument(f"num_records must be from 1 to {_MAX_RECORDS}, not {int(count)}")

        def finish(records: Any, error: BaseException | None) -> None:
            if error is not None:
                done(None, error)
                return
            columns = list(zip(*records, strict=True))
            done([filled((len(column),), column) for column in columns], None)

        find(handle).read(step, queue_of(queue), int(count), finish, up_to=True)

    return run


@kernel("ReaderNumRecordsProduced", "ReaderNumRecordsProducedV2", shape=scalar)
def reader_records(node: Node, env: KernelEnv) -> Run:
    find = _finder(env)
    return lambda handle: np.int64(find(handle).records_produced)


@kernel("ReaderNumWorkUnitsCompleted", "ReaderNumWorkUnitsCompletedV2", shape=scalar)
def reader_units(node: Node, env: KernelEnv) -> Run:
    find = _finder(env)
    return lambda handle: np.int64(find(handle).units_completed)


@kernel("ReaderReset", "ReaderResetV2", asynchronous=True)
def reader_reset(node: Node, env: KernelEnv) -> Run:
    find = _finder(env)

    def run(step: StepContext, done: Answer, handle: Any) -> None:
        reader = find(handle)
        reader.change(step, reader.reset, done)

    return run


@kernel("ReaderSerializeState", "ReaderSerializeStateV2", asynchronous=True, shape=scalar)
def reader_state(node: Node, env: KernelEnv) -> Run:
    find = _finder(env)

    def run(step: StepContext, done: Answer, handle: Any) -> None:
        reader = find(handle)
        reader.change(step, lambda: object_scalar(reader.state()), done)

    return run


@kernel("ReaderRestoreState", "ReaderRestoreStateV2", asynchronous=True)
def reader_restore(node: Node, env: KernelEnv) -> Run:
    find = _finder(env)

    def run(step: StepContext, done: Answer, handle: Any, state: Any) -> None:
        if state.ndim:
            raise InvalidArgument(f"Reader state must be scalar, but had shape: {format_shape(state.shape)}")
        reader = find(handle)
        reader.change(step, lambda: reader.restore(state.item()), done)

    return run


# Whole files


def _scalar(tensor: Any, what: str) -> Any:
    if tensor.ndim:
        raise InvalidArgument(f"{what} tensor must be scalar, but had shape: {format_shape(tensor.shape)}")
    return tensor.item()


@kernel("ReadFile", shape=scalar, host=(0,))
def read_whole_file(node: Node, env: KernelEnv) -> Run:
    files = env.session.files
    return lambda filename: object_scalar(read_file(files.check(_scalar(filename, "Input filename"))))


@kernel("WriteFile", host=(0, 1))
def write_whole_file(node: Node, env: KernelEnv) -> Run:
    files = env.session.files

    def run(filename: Any, contents: Any) -> None:
        path, content = _scalar(filename, "Input filename"), _scalar(contents, "Contents")
        write_file(files.check(path), content)

    return run


@kernel("MatchingFiles", shape=lambda node, shapes: [(None,)], host=(0,))
def find_matching_files(node: Node, env: KernelEnv) -> Run:
    files = env.session.files

    def run(patterns: Any) -> Any:
        if patterns.ndim > 1:
            raise InvalidArgument("Input patterns tensor must be scalar or vector, but had shape: "
                                  f"{format_shape(patterns.shape)}")
        found = [os.fsencode(name) for pattern in patterns.reshape(-1).tolist()
                 for name in matching_files(os.fsdecode(pattern), files.check)]
        return filled((len(found),), sorted(found))

    return run
