"""Cases of ops that call functions: calls, conditionals, loops, and the gradient of a function."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from runtime.dtypes import DataType
from tests.ops.case import Case, Run, called, const, function, graph_case, node
from tests.ops.cases.variables import fed, feeds
from tests.ops.pipeline import WIDE
from tests.ops.values import TYPES

F, N, B = DataType.FLOAT, DataType.INT32, DataType.BOOL
INPUTS = {f"x{place}": value for place, value in enumerate(WIDE)}
KINDS = {f"x{place}": kind for place, kind in enumerate(TYPES)}
RESULTS = [f"op:{place}" for place in range(len(TYPES))]
X = np.array([1.5, -2, 0.25], np.float32)

# A device of the task on either side.
TARGET = b"/job:localhost/replica:0/task:0/device:CPU:0"


def cases() -> Iterator[Case]:
    """Yield the cases."""
    yield from _calls()
    yield from _conditionals()
    yield from _cases()
    yield from _loops()
    yield from _for()
    yield from _gradients()
    yield from _fake_parameters()


def _same(name: str = "same", first: Mapping[str, DataType] | None = None) -> Any:
    """Return the function that returns its arguments of every type."""
    return function(name, {**(first or {}), **KINDS}, {f"y{name[1:]}": (name, kind) for name, kind in KINDS.items()})


def _scaled(name: str, factor: float) -> Any:
    """Return the function that multiplies by a constant."""
    return function(name, {"x": F}, {"y": ("mul:z:0", F)}, [const("factor", np.float32(factor)),
                                                          node("Mul", "mul", ["x", "factor:output:0"], T=F)])


def _failing(name: str) -> Any:
    return function(name, {"x": F}, {"y": ("check:output:0", F)}, [
        const("zero", np.float32(0)), node("RealDiv", "div", ["x", "zero:output:0"], T=F),
        node("CheckNumerics", "check", ["div:z:0"], T=F, message="bad")])


def _calls() -> Iterator[Case]:
    types = {"Tin": list(TYPES), "Tout": list(TYPES)}
    for op in ("PartitionedCall", "StatefulPartitionedCall", "RemoteCall"):
        to = ["target"] if op == "RemoteCall" else []
        target = [const("target", TARGET)] if to else []
        nodes = [*fed(**INPUTS), *target, node(op, "op", [*to, *INPUTS], f=called("same"), **types)]
        yield graph_case(op, "every type", nodes, Run(feeds(**INPUTS), RESULTS), library=[_same()])
        for label, body in (("twice", _scaled("f", 2)), ("an error", _failing("f"))):
            nodes = [*fed(x=X), *target, node(op, "op", [*to, "x"], f=called("f"), Tin=[F], Tout=[F])]
            yield graph_case(op, label, nodes, Run(feeds(x=X), ["op:0"]), library=[body], text=False)
        outer = function("outer", {"x": F}, {"y": ("call:output:0", F)},
                         [node("PartitionedCall", "call", ["x"], f=called("f"), Tin=[F], Tout=[F])])
        nodes = [*fed(x=X), *target, node(op, "op", [*to, "x"], f=called("outer"), Tin=[F], Tout=[F])]
        yield graph_case(op, "a call in a call", nodes, Run(feeds(x=X), ["op:0"]), library=[outer, _scaled("f", 3)])
    counter = [node("VarHandleOp", "v", shared_name="count", dtype=F, shape=()), const("one", np.float32(1))]
    count = function("count", {}, {"y": ("read:value:0", F)}, [
        *counter, node("AssignAddVariableOp", "add", ["v:resource:0", "one:output:0"], dtype=F),
        node("ReadVariableOp", "read", ["v:resource:0", "^add"], dtype=F)], stateful=True)
    nodes = [*counter, node("AssignVariableOp", "set", ["v", "one"], dtype=F),
             node("StatefulPartitionedCall", "op", f=called("count"), Tin=[], Tout=[F])]
    yield graph_case("StatefulPartitionedCall", "a variable", nodes, Run({}, [], ["set"]), *[Run({}, ["op:0"])] * 3,
                     library=[count])


def _conditions() -> Iterator[tuple[str, Any]]:
    for value in (True, False):
        yield f"bool {value}", np.bool_(value)
    for value in (0, 2):
        for kind in (F, DataType.DOUBLE, N, DataType.UINT8, DataType.INT16, DataType.INT8, DataType.INT64):
            yield f"{kind.label} {value}", np.array(value).astype(WIDE[TYPES.index(kind)].dtype)
    for text in (b"", b"x"):
        yield f"text {text!r}", np.array(text, object)
    yield "no elements", np.zeros((0, 2), np.float32)
    yield "some zeros", np.zeros(2, np.float32)


def _conditionals() -> Iterator[Case]:
    bodies = [_scaled("then", 2), _scaled("else", 3)]
    for op in ("If", "StatelessIf"):
        inputs = {"c": np.bool_(True), **INPUTS}
        turned = function("turned", KINDS, {f"y{place}": (name, kind) for place, (name, kind) in
                                            enumerate(KINDS.items())})
        nodes = [*fed(**inputs), node(op, "op", list(inputs), then_branch=called("same"), else_branch=called("turned"),
                                      Tcond=B, Tin=list(TYPES), Tout=list(TYPES))]
        for truth in (True, False):
            yield graph_case(op, f"every type {truth}", nodes,
                             Run(feeds(**{**inputs, "c": np.bool_(truth)}), RESULTS), library=[_same(), turned])
        for label, condition in _conditions():
            placed = fed(c=condition, x=X)
            nodes = [*placed, node(op, "op", ["c", "x"], then_branch=called("then"), else_branch=called("else"),
                                   Tcond=placed[0].attr["dtype"], Tin=[F], Tout=[F])]
            yield graph_case(op, label, nodes, Run(feeds(c=condition, x=X), ["op:0"]), library=bodies)
        nodes = [*fed(c=np.bool_(False), x=X), node(op, "op", ["c", "x"], then_branch=called("failing"),
                                                    else_branch=called("else"), Tcond=B, Tin=[F], Tout=[F])]
        yield graph_case(op, "an error in one", nodes, *[Run(feeds(c=np.bool_(truth), x=X), ["op:0"])
                                                        for truth in (False, True)],
                         library=[_failing("failing"), bodies[1]], text=False)


def _cases() -> Iterator[Case]:
    bodies = [_scaled(f"f{place}", place + 2) for place in range(3)]
    for op in ("Case", "StatelessCase"):
        nodes = [*fed(i=np.int32(0), **INPUTS), node(op, "op", ["i", *INPUTS], branches=[called("same")] * 2,
                                                     Tin=list(TYPES), Tout=list(TYPES))]
        yield graph_case(op, "every type", nodes, Run(feeds(i=np.int32(1), **INPUTS), RESULTS), library=[_same()])
        nodes = [*fed(i=np.int32(0), x=X), node(op, "op", ["i", "x"], Tin=[F], Tout=[F],
                                                branches=[called(f"f{place}") for place in range(3)])]
        yield graph_case(op, "which", nodes, *[Run(feeds(i=np.int32(place), x=X), ["op:0"])
                                              for place in (0, 1, 2, -1, 3, 99)], library=bodies)


def _loops() -> Iterator[Case]:
    less = [const("limit", np.int32(4)), node("Less", "less", ["i", "limit:output:0"], T=N)]
    more = [const("one", np.int32(1)), node("AddV2", "add", ["i", "one:output:0"], T=N)]
    for op in ("While", "StatelessWhile"):
        cond = function("cond", {"i": N, **KINDS}, {"y": ("less:z:0", B)}, less)
        body = function("body", {"i": N, **KINDS}, {"j": ("add:z:0", N), **{f"y{name[1:]}": (name, kind)
                                                                           for name, kind in KINDS.items()}}, more)
        nodes = [*fed(i=np.int32(0), **INPUTS), node(op, "op", ["i", *INPUTS], cond=called("cond"),
                                                     body=called("body"), T=[N, *TYPES])]
        yield graph_case(op, "every type", nodes,
                         Run(feeds(i=np.int32(0), **INPUTS), [*RESULTS, f"op:{len(TYPES)}"]), library=[cond, body])
        cond = function("cond", {"i": N, "x": F}, {"y": ("less:z:0", B)}, less)
        body = function("body", {"i": N, "x": F}, {"j": ("add:z:0", N), "y": ("sum:z:0", F)},
                        [*more, node("AddV2", "sum", ["x", "x"], T=F)])
        nodes = [*fed(i=np.int32(0), x=X), node(op, "op", ["i", "x"], cond=called("cond"), body=called("body"),
                                                T=[N, F])]
        yield graph_case(op, "turns", nodes, *[Run(feeds(i=np.int32(start), x=X), ["op:0", "op:1"])
                                              for start in (0, 3, 4, -20)], library=[cond, body])
        failing = function("body", {"i": N, "x": F}, {"j": ("add:z:0", N), "y": ("check:output:0", F)}, [
            *more, node("RealDiv", "div", ["x", "x"], T=F),
            node("CheckNumerics", "check", ["div:z:0"], T=F, message="bad")])
        zeros = np.zeros(2, np.float32)
        yield graph_case(op, "an error", nodes, Run(feeds(i=np.int32(0), x=zeros), ["op:1"]),
                         library=[cond, failing], text=False)


def _for() -> Iterator[Case]:
    numbers = ("start", "limit", "delta")
    body = function("body", {"i": N, **KINDS}, {f"y{name[1:]}": (name, kind) for name, kind in KINDS.items()})
    inputs = {name: np.int32(value) for name, value in zip(numbers, (0, 3, 1), strict=True)}
    nodes = [*fed(**inputs, **INPUTS), node("For", "op", [*inputs, *INPUTS], body=called("body"), T=list(TYPES))]
    yield graph_case("For", "every type", nodes, Run(feeds(**inputs, **INPUTS), RESULTS), library=[body])
    body = function("body", {"i": N, "x": F}, {"y": ("add:z:0", F)}, [
        node("Cast", "cast", ["i"], SrcT=N, DstT=F), node("AddV2", "add", ["x", "cast:y:0"], T=F)])
    nodes = [*fed(**inputs, x=X), node("For", "op", [*inputs, "x"], body=called("body"), T=[F])]
    runs = [Run(feeds(**{name: np.int32(value) for name, value in zip(numbers, values, strict=True)}, x=X), ["op:0"])
            for values in ((0, 3, 1), (5, 0, -2), (3, 3, 1), (4, 1, 1), (0, 3, 0), (-3, 4, 3), (3, 3, 0))]
    yield graph_case("For", "turns", nodes, *runs, library=[body], text=False)


def _gradients() -> Iterator[Case]:
    square = function("f", {"x": F, "w": F}, {"y": ("mul:z:0", F)}, [
        node("Mul", "square", ["x", "x"], T=F), node("Mul", "mul", ["square:z:0", "w"], T=F)])
    w, dy = np.array([2, 3, -1], np.float32), np.array([1, 0.5, 2], np.float32)
    nodes = [*fed(x=X, w=w, dy=dy), node("SymbolicGradient", "op", ["x", "w", "dy"], f=called("f"), Tin=[F, F, F],
                                         Tout=[F, F])]
    yield graph_case("SymbolicGradient", "a product", nodes, Run(feeds(x=X, w=w, dy=dy), ["op:0", "op:1"]),
                     library=[square])
    layer = function("f", {"x": F, "w": F}, {"y": ("act:activations:0", F)}, [
        node("MatMul", "product", ["x", "w"], T=F), node("Relu", "act", ["product:product:0"], T=F)])
    x, w, dy = (np.linspace(-1, low, 6, dtype=np.float32).reshape(shape)
                for low, shape in ((1, (2, 3)), (2, (3, 2)), (0, (6,))))
    dy = dy[:4].reshape(2, 2)
    nodes = [*fed(x=x, w=w, dy=dy), node("SymbolicGradient", "op", ["x", "w", "dy"], f=called("f"), Tin=[F, F, F],
                                         Tout=[F, F])]
    yield graph_case("SymbolicGradient", "a layer", nodes, Run(feeds(x=x, w=w, dy=dy), ["op:0", "op:1"]),
                     library=[layer])


def _fake_parameters() -> Iterator[Case]:
    for kind in TYPES:
        branch = function("other", {"x": kind}, {"y": ("fake:output:0", kind)},
                          [node("FakeParam", "fake", dtype=kind, shape=(2,))])
        same = function("same", {"x": kind}, {"y": ("x", kind)})
        value = WIDE[TYPES.index(kind)]
        nodes = [*fed(c=np.bool_(True), x=value), node("StatelessIf", "op", ["c", "x"], then_branch=called("same"),
                                                       else_branch=called("other"), Tcond=B, Tin=[kind], Tout=[kind])]
        run = Run(feeds(c=np.bool_(True), x=value), ["op:0"])
        yield graph_case("FakeParam", f"{kind.label}, not taken", nodes, run, library=[same, branch])
