"""Requests read in pieces are the requests read as a whole."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from runtime import wire
from runtime._ext.errors import InvalidArgument
from runtime.master.messages import LARGE_BYTES, parse, parse_in_pieces
from tests.graph.graphs import FLOAT, const, function_def, graph_def, node, placeholder


@pytest.fixture(scope="module")
def request_bytes() -> bytes:
    """A request with every kind of large part: many nodes, a large node, a large function, a large text."""
    inside = [node(f"a{number}", "Neg", f"a{number - 1}:y:0" if number else "a", T=FLOAT) for number in range(6000)]
    graph = graph_def(
        placeholder("x"),
        *(node(f"n{number}", "Neg", f"n{number - 1}" if number else "x", T=FLOAT) for number in range(10000)),
        const("large", np.ones(LARGE_BYTES, np.float32)),
        functions=(function_def("f", {"a": FLOAT}, {"b": (FLOAT, "a5999:y:0")}, inside),),
    )
    message = wire.CreateSessionRequest(graph_def=graph, target="t" * (LARGE_BYTES + 1))
    message.config.allow_soft_placement = True
    made = bytes(message.SerializeToString())
    # a field that nobody knows, and the graph's versions a second time: the last of them counts
    return (
        made
        + b"\xfa\x01\x03abc"
        + bytes(wire.CreateSessionRequest(graph_def=wire.GraphDef(versions={"producer": 7})).SerializeToString())
    )


def outcome(read: Any, data: bytes) -> Any:
    try:
        return read(wire.CreateSessionRequest, data)
    except InvalidArgument as error:
        assert "CreateSessionRequest" in error.message
        return InvalidArgument


def test_the_message_is_the_same(request_bytes):
    whole = parse(wire.CreateSessionRequest, request_bytes)
    pieces = parse_in_pieces(wire.CreateSessionRequest, request_bytes)
    assert pieces == whole
    assert pieces.SerializeToString(deterministic=True) == whole.SerializeToString(deterministic=True)
    assert len(whole.graph_def.node) == 10002
    assert whole.graph_def.versions.producer == 7


def test_damaged_messages_are_refused_alike(request_bytes):
    source = random.Random(5)
    for _ in range(40):
        where = source.randrange(len(request_bytes))
        cut = request_bytes[:where]
        changed = bytearray(request_bytes)
        changed[where] ^= 1 << source.randrange(8)
        for data in (cut, bytes(changed), cut + b"\xff" * 12):
            assert outcome(parse_in_pieces, data) == outcome(parse, data)
