"""Sessions of every kind for one suite of tests: in process, on this project's server, on TensorFlow's."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import runtime
from runtime import wire

KINDS = ("in process", "server", "tensorflow")

Open = Callable[..., runtime.Session]


@pytest.fixture(params=KINDS)
def target(request: pytest.FixtureRequest) -> str | None:
    """Where sessions run: None, or the target of a server in a process of its own."""
    if request.param == "in process":
        return None
    fixture = {"server": "server", "tensorflow": "peer_server"}[request.param]
    return str(request.getfixturevalue(fixture))


@pytest.fixture
def opened(target: str | None) -> Iterator[Open]:
    """Return a function that opens a session; all are closed at the end."""
    with contextlib.ExitStack() as stack:
        yield lambda *args, **options: stack.enter_context(runtime.Session(target, *args, **options))


@pytest.fixture
def graph() -> runtime.Graph:
    return runtime.Graph()


@pytest.fixture
def unique() -> str:
    """A name that no other session on the same server uses."""
    return f"v{uuid.uuid4().hex}"


# TensorFlow's optimiser would see that the loop never ends.
AS_WRITTEN: dict[str, Any] = {"graph_options": {"rewrite_options": {"disable_meta_optimizer": True}}}


def endless_loop() -> Any:
    """Return a GraphDef whose node ``never`` is computed after a loop that does not end."""
    graph_def = wire.GraphDef()

    def add(name: str, op: str, *inputs: str, **types: Any) -> Any:
        node = graph_def.node.add(name=name, op=op)
        node.input.extend(inputs)
        for attr, kind in types.items():
            node.attr[attr].type = kind
        return node

    number = add("start", "Const", dtype=wire.DT_INT32)
    number.attr["value"].tensor.dtype = wire.DT_INT32
    number.attr["value"].tensor.int_val.append(1)
    enter = add("enter", "Enter", "start", T=wire.DT_INT32)
    enter.attr["frame_name"].s = b"loop"
    add("merge", "Merge", "enter", "next", T=wire.DT_INT32).attr["N"].i = 2
    # Compared with itself rather than a constant true, so that nothing can be known beforehand.
    add("again", "Equal", "merge", "merge", T=wire.DT_INT32)
    add("condition", "LoopCond", "again")
    add("switch", "Switch", "merge", "condition", T=wire.DT_INT32)
    add("body", "Identity", "switch:1", T=wire.DT_INT32)
    add("next", "NextIteration", "body", T=wire.DT_INT32)
    add("never", "Exit", "switch", T=wire.DT_INT32)
    graph_def.versions.producer = 2474
    return graph_def
