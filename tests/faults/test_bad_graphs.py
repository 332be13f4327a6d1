"""Graphs that no step should be made of: a clear error each, soon and in little memory, and nobody else notices.

Codes and texts are TensorFlow's where it has one; TensorFlow's server hangs on some of these and ends with others.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

from runtime import wire
from tests.faults.watch import until, vitals, witness
from tests.graph.graphs import BOOL, FLOAT, INT32, INT64, STRING, const, function_def, identity, node, placeholder
from tests.interop.raw import Refused, Wire
from tests.processes import ServerProcess

INVALID_ARGUMENT, DEADLINE_EXCEEDED, NOT_FOUND, RESOURCE_EXHAUSTED = 3, 4, 5, 8
Outcome = tuple[int, str]

# Any of these took TensorFlow 20 ms at most, where it answered at all; the rest is for a busy machine.
SOON_S = 5.0


def outcome(client: Wire, nodes: list[Any], fetch: str, functions: tuple[Any, ...] = (), **fields: Any) -> Outcome:
    """Make a session of some nodes, fetch something, and return the error of the one or the other."""
    started = time.monotonic()
    try:
        handle = client.session(*nodes, functions=functions)
        found: Outcome = client.in_body(handle, [fetch], **fields)
        client.call("CloseSession", session_handle=handle)
    except Refused as error:
        found = error.code, error.message
    assert time.monotonic() - started < SOON_S
    return found


def loop(limit: int, frame: bytes = b"f") -> list[Any]:
    """``while i < limit: i += 1`` in frames; `exit` is its end."""
    return [
        const("zero", 0),
        const("limit", limit),
        node("enter", "Enter", "zero", T=INT32, frame_name=frame),
        node("enter_limit", "Enter", "limit", T=INT32, frame_name=frame, is_constant=True),
        node("merge", "Merge", "enter", "next", N=2, T=INT32),
        node("less", "Less", "merge", "enter_limit", T=INT32),
        node("cond", "LoopCond", "less"),
        node("switch", "Switch", "merge", "cond", T=INT32),
        const("one", 1, "^switch"),
        node("add", "AddV2", "switch:1", "one", T=INT32),
        node("next", "NextIteration", "add", T=INT32),
        node("exit", "Exit", "switch:0", T=INT32),
    ]


def while_loop(limit: int) -> tuple[list[Any], tuple[Any, ...]]:
    """The same by functions; `end` is its end."""
    condition = function_def(
        "more",
        {"i": INT32},
        {"less": (BOOL, "less:z:0")},
        [const("limit", limit), node("less", "Less", "i", "limit:output:0", T=INT32)],
    )
    body = function_def(
        "turn",
        {"i": INT32},
        {"next": (INT32, "add:z:0")},
        [const("one", 1), node("add", "AddV2", "i", "one:output:0", T=INT32)],
    )
    nodes = [const("zero", 0), node("while", "While", "zero", T=[INT32], cond="more", body="turn")]
    return [*nodes, identity("end", "while", dtype=INT32)], (condition, body)


def calling(name: str, callee: str) -> Any:
    """A function that calls another one."""
    call = node("call", "PartitionedCall", "a", Tin=[FLOAT], Tout=[FLOAT], f=callee)
    return function_def(name, {"a": FLOAT}, {"b": (FLOAT, "call:output:0")}, [call])


def called(name: str) -> list[Any]:
    return [const("v", 1.0), node("call", "PartitionedCall", "v", Tin=[FLOAT], Tout=[FLOAT], f=name)]


WRONG: dict[str, tuple[list[Any], int, str]] = {
    "a cycle": ([node("a", "Neg", "b", T=FLOAT), node("b", "Neg", "a", T=FLOAT)], 3, "2 nodes in a cycle"),
    "a node that feeds itself": ([node("a", "Neg", "a", T=FLOAT)], 3, "1 nodes in a cycle"),
    "two frames": (
        [
            *loop(3),
            node("enter2", "Enter", "zero", T=INT32, frame_name=b"g"),
            node("a", "AddV2", "add", "enter2", T=INT32),
        ],
        3,
        "{{node a}} has inputs from different frames. The input {{node add}} is in frame 'f'. The input "
        "{{node enter2}} is in frame 'g'.",
    ),
    "a value from around a loop": (
        [*loop(3), const("dims", np.zeros(0, np.int32)),
         node("p", "RandomUniformInt", "dims", "zero", "limit", T=INT32, Tout=INT32),
         node("a", "AddV2", "add", "p", T=INT32)],
        3,
        "{{node a}} has inputs from different frames. The input {{node add}} is in frame 'f'. The input {{node p}} "
        "is in frame ''.",
    ),
    "an exit of nothing": (
        [const("z", 0), node("a", "Exit", "z", T=INT32)],
        3,
        "Invalid Exit op: Cannot find a corresponding Enter op.",
    ),
    "a next turn of nothing": (
        [placeholder("z", INT32), node("a", "NextIteration", "zero", T=INT32), const("zero", 0)],
        3,
        "{{node a}} is a NextIteration outside of any loop",
    ),
    "a missing node": ([node("a", "Neg", "nothere", T=FLOAT)], 3, "Node 'a': Unknown input node 'nothere'"),
    "a missing output": (
        [const("c", 1.0), node("a", "Neg", "c:3", T=FLOAT)],
        3,
        "Node 'a': Connecting to invalid output 3 of source node c which has 1 outputs.",
    ),
    "too few inputs": (
        [const("c", 1.0), node("a", "AddV2", "c", T=FLOAT)],
        3,
        "NodeDef expected inputs 'float, float' do not match 1 inputs specified",
    ),
    "too many inputs": (
        [const("c", 1.0), node("a", "Neg", "c", "c", T=FLOAT)],
        3,
        "Input 1 of node a does not exist. Node only has 1 inputs.",
    ),
    "an input of another type": (
        [const("c", 1), node("a", "Neg", "c", T=FLOAT)],
        3,
        "Input 0 of node a was passed int32 from c:0 incompatible with expected float.",
    ),
    "a type that the op has not": (
        [const("c", [b"x"]), node("a", "Neg", "c", T=STRING)],
        3,
        "Value for attr 'T' of string is not in the list of allowed values: ",
    ),
    "a missing attr": ([const("c", 1.0), node("a", "Neg", "c")], 5, "No attr named 'T' in NodeDef:\n\t [[{{node a}}]]"),
    "an attr of another kind": ([const("c", 1.0), node("a", "Neg", "c", T=3)], 3, "{{node a}}"),
    "an unknown op": ([node("a", "NoSuchOp")], 5, "Op type not registered 'NoSuchOp'"),
    "a constant without a value": ([node("a", "Const", dtype=FLOAT)], 3, "NodeDef missing attr 'value' from Op<"),
    "a constant of another type": (
        [node("c", "Const", dtype=FLOAT, value=np.int32(1)), node("a", "Neg", "c", T=FLOAT)],
        3,
        "Type mismatch between value (int32) and dtype (float)\n\t [[{{node c}}]]",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_graph_that_is_wrong_is_told_why(target: ServerProcess, client: Wire, name: str) -> None:
    nodes, code, text = WRONG[name]
    found = outcome(client, nodes, "a:0")
    assert found[0] == code
    assert text in found[1]


def test_an_attr_that_nobody_knows_does_no_harm(client: Wire) -> None:
    handle = client.session(const("c", 1.0), node("a", "Neg", "c", T=FLOAT, nonsense=1))
    assert client.run(handle, ["a:0"]) == {"a:0": -1.0}


def filled(dims: Any) -> list[Any]:
    kind = INT32 if dims.dtype == np.int32 else INT64
    return [const("d", dims), const("o", 1.0), node("a", "Fill", "d", "o", T=FLOAT, index_type=kind)]


SIZES: dict[str, tuple[list[Any], int, str]] = {
    "2^60 elements": (filled(np.array([1 << 30, 1 << 30], np.int32)), 8, "OOM when Fill asked for 4611686018427387904"),
    "2^62 elements": (filled(np.array([1 << 31, 1 << 31])), 8, "too big"),
    "2^64 elements": (filled(np.array([1 << 32, 1 << 32])), 3, "would have more than 2**63 - 1 elements"),
    "a negative size": (filled(np.array([-1], np.int32)), 3, "Dimension -1 must be >= 0"),
    "Range": (
        [const("n", np.int64(1 << 58)), const("z", np.int64(0)), const("o", np.int64(1)),
         node("a", "Range", "z", "n", "o", Tidx=INT64)],
        8,
        "OOM when Range asked for 2305843009213693952 bytes",
    ),
    "Tile": (
        [const("x", [[1.0]]), const("m", [1 << 29, 1 << 30]), node("a", "Tile", "x", "m", T=FLOAT, Tmultiples=INT32)],
        8,
        "OOM when Tile asked for 2305843009213693952 bytes",
    ),
    "RandomUniform": (
        [const("m", [1 << 29, 1 << 30]), node("a", "RandomUniform", "m", T=INT32, dtype=FLOAT)],
        8,
        "OOM when RandomUniform asked for ",
    ),
    "OneHot": (
        [const("i", np.zeros(1024, np.int32)), const("n", 2**31 - 1), const("o", 1.0),
         node("a", "OneHot", "i", "n", "o", "o", T=FLOAT, TI=INT32)],
        8,
        "OOM when OneHot asked for ",
    ),
    "BroadcastTo": (
        [const("x", 1.0), const("m", [1 << 29, 1 << 30]), node("a", "BroadcastTo", "x", "m", T=FLOAT, Tidx=INT32)],
        8,
        "{{node a}}",
    ),
    "Pad": (
        [const("x", [[1.0]]), const("m", [[1 << 28, 1 << 28]] * 2),
         node("a", "Pad", "x", "m", T=FLOAT, Tpaddings=INT32)],
        8,
        "OOM when Pad asked for ",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SIZES)
def test_a_size_beyond_any_memory_is_refused(target: ServerProcess, client: Wire, name: str) -> None:
    nodes, code, text = SIZES[name]
    with witness(target):
        found = outcome(client, nodes, "a:0")
    assert found[0] == code
    assert text in found[1]
    assert "[[{{node " in found[1]


@pytest.mark.parametrize("kind", ["frames", "functions"])
def test_a_loop_of_a_billion_turns_ends_with_its_deadline(target: ServerProcess, client: Wire, kind: str) -> None:
    nodes, functions = (loop(10**9), ()) if kind == "frames" else while_loop(10**9)
    fetch = "exit:0" if kind == "frames" else "end:0"
    options = wire.RunOptions(timeout_in_ms=300)
    with witness(target, longest_s=0.5):
        started = time.monotonic()
        code, text = outcome(client, nodes, fetch, functions, options=options)
        assert time.monotonic() - started < 2
    assert code == DEADLINE_EXCEEDED
    assert "300 ms" in text


def test_functions_that_call_themselves_end(target: ServerProcess, client: Wire) -> None:
    with witness(target):
        for functions in ((calling("f", "f"),), (calling("f", "g"), calling("g", "f"))):
            code, text = outcome(client, called("f"), "call:0", functions)
            assert code == RESOURCE_EXHAUSTED
            assert "function calls nest too deeply" in text


@pytest.mark.parametrize("depth", [50, 3000])
def test_functions_that_nest_deeply_run_or_are_refused(target: ServerProcess, client: Wire, depth: int) -> None:
    leaf = function_def("f0", {"a": FLOAT}, {"b": (FLOAT, "neg:y:0")}, [node("neg", "Neg", "a", T=FLOAT)])
    functions = (leaf, *(calling(f"f{number}", f"f{number - 1}") for number in range(1, depth)))
    nodes = called(f"f{depth - 1}")
    with witness(target):
        if depth == 50:
            assert client.run(client.session(*nodes, functions=functions), ["call:0"]) == {"call:0": -1.0}
        else:
            code, text = outcome(client, nodes, "call:0", functions)
            assert code == RESOURCE_EXHAUSTED
            assert "function calls nest too deeply" in text


def test_a_graph_of_a_hundred_thousand_nodes_is_given_back(target: ServerProcess, client: Wire) -> None:
    before = vitals(target).rss
    with witness(target):
        chain = [node(f"n{number}", "Neg", f"n{number - 1}" if number else "x", T=FLOAT) for number in range(100_000)]
        handle = client.session(placeholder("x"), *chain)
        assert client.run(handle, ["n99999:0"], feed={"x:0": 2.0}) == {"n99999:0": 2.0}
        client.call("CloseSession", session_handle=handle)
    until(lambda: vitals(target).rss < before + (48 << 20), "the memory of a large graph that is closed")


def test_a_million_empty_strings_are_answered(target: ServerProcess, client: Wire) -> None:
    handle = client.session(
        const("n", [1 << 20]), const("e", [b""]), const("s", np.zeros(0, np.int32)),
        node("scalar", "Reshape", "e", "s", T=STRING, Tshape=INT32),
        node("fill", "Fill", "n", "scalar", T=STRING, index_type=INT32),
    )  # fmt: skip
    with witness(target):
        answer = client.run(handle, ["fill:0"])["fill:0"]
    assert answer.shape == (1 << 20,)
    assert set(answer.tolist()) == {b""}
