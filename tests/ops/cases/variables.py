"""Cases of reference and resource variables: short histories in one session."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from runtime.dtypes import from_numpy
from tests.ops.case import COMPLEX, FLOATS, INTEGERS, Case, Run, bf16, graph_case, node
from tests.ops.values import values

NUMBERS = (*FLOATS, *INTEGERS, *COMPLEX)
SCATTERS = ("Update", "Add", "Sub", "Mul", "Div", "Min", "Max")
ONES = np.ones(2, np.float32)


def cases() -> Iterator[Case]:
    """Yield the cases."""
    for kind in (*NUMBERS, np.bool_, object):
        yield from _assignments(kind, (2, 3))
    for shape in ((), (3,), (0, 2)):
        yield from _assignments(np.float32, shape)
    yield from _reference_rules()
    yield from _resource_rules()
    for name in SCATTERS:
        for kind in (np.float32, np.int32):
            yield from _scatters(name, kind, ((5,), (5, 3)))
        for kind in (np.float64, np.float16, bf16, np.int64):
            yield from _scatters(name, kind, ((5, 3),))
    yield from _scatter_rules()
    yield from _gathers()
    yield from _counters()


def reference(name: str, value: np.ndarray, **attrs: Any) -> list[Any]:
    """Return a reference variable, a placeholder `name`_in and the node `name`_init that assigns it."""
    kind = from_numpy(value.dtype)
    shape = attrs.pop("shape", value.shape)
    return [node("VariableV2", name, dtype=kind, shape=shape, **attrs), node("Placeholder", f"{name}_in", dtype=kind),
            node("Assign", f"{name}_init", [name, f"{name}_in"], T=kind)]


def resource(name: str, value: np.ndarray, **attrs: Any) -> list[Any]:
    """Return the same as a resource variable, and the node `name`_read."""
    kind = from_numpy(value.dtype)
    shape = attrs.pop("shape", value.shape)
    return [node("VarHandleOp", name, dtype=kind, shape=shape, shared_name=name, **attrs),
            node("Placeholder", f"{name}_in", dtype=kind),
            node("AssignVariableOp", f"{name}_init", [name, f"{name}_in"], dtype=kind),
            node("ReadVariableOp", f"{name}_read", [name], dtype=kind)]


def set_up(**initial: np.ndarray) -> Run:
    """Return the run that assigns the initial values."""
    return Run({f"{name}_in:0": value for name, value in initial.items()}, [], [f"{name}_init" for name in initial])


def fed(**arrays: np.ndarray) -> list[Any]:
    """Return one placeholder for each array."""
    return [node("Placeholder", name, dtype=from_numpy(value.dtype)) for name, value in arrays.items()]


def feeds(**arrays: np.ndarray) -> dict[str, np.ndarray]:
    """Return what to feed to them."""
    return {f"{name}:0": np.asarray(value) for name, value in arrays.items()}


def _assignments(kind: Any, shape: tuple[int, ...]) -> Iterator[Case]:
    first, second = values(kind, shape, 1), values(kind, shape, 2)
    label = f"{np.dtype(kind).name}{list(shape)}"
    data_type = from_numpy(first.dtype)
    nodes = [*reference("v", first), node("IsVariableInitialized", "ready", ["v"], dtype=data_type), *fed(x=second)]
    runs = [Run({}, ["ready:0"]), set_up(v=first), Run({}, ["ready:0", "v:0"])]
    yield graph_case("Assign", label, nodes, *runs, Run({"v_in:0": second}, ["v_init:0"]), Run({}, ["v:0"]))
    yield graph_case("VarHandleOp", label, [*resource("v", first), node("VarIsInitializedOp", "ready", ["v"]),
                                            node("VariableShape", "shape", ["v"], out_type=np.int64),
                                            node("DestroyResourceOp", "destroy", ["v"])],
                     Run({}, ["ready:0"]), set_up(v=first), Run({}, ["ready:0", "v_read:0", "shape:0"]),
                     set_up(v=second), Run({}, ["v_read:0"]), Run({}, [], ["destroy"]), Run({}, ["ready:0"]))
    if kind is np.bool_ or kind is object:
        return
    for op in ("AssignAdd", "AssignSub"):
        nodes = [*reference("v", first), *fed(x=second), node(op, "op", ["v", "x"], T=data_type)]
        change = Run(feeds(x=second), ["op:0"])
        yield graph_case(op, label, nodes, change, set_up(v=first), change, change, Run({}, ["v:0"]))
        nodes = [*resource("v", first), *fed(x=second), node(f"{op}VariableOp", "op", ["v", "x"], dtype=data_type)]
        change = Run(feeds(x=second), [], ["op"])
        yield graph_case(f"{op}VariableOp", label, nodes, set_up(v=first), change, change, Run({}, ["v_read:0"]))


def _reference_rules() -> Iterator[Case]:
    three = np.arange(3, dtype=np.float32)
    nodes = [*reference("v", ONES), *fed(x=three), node("AssignAdd", "add", ["v", "x"], T=np.float32),
             node("Assign", "free", ["v", "x"], T=np.float32, validate_shape=False)]
    yield graph_case("Assign", "another shape", nodes, set_up(v=three), set_up(v=ONES), set_up(v=three),
                     Run(feeds(x=three), ["free:0"]), Run({}, ["v:0"]), Run(feeds(x=three), ["add:0"]))
    yield graph_case("AssignAdd", "another shape", nodes, set_up(v=ONES), Run(feeds(x=three), ["add:0"]))
    yield graph_case("VariableV2", "unset", [*reference("v", ONES), node("Identity", "read", ["v"], T=np.float32)],
                     Run({}, ["read:0"]), set_up(v=ONES), Run({}, ["read:0"]))
    yield graph_case("VariableV2", "shared", [
        *reference("v", ONES, shared_name="both"), node("VariableV2", "w", dtype=np.float32, shape=(2,),
                                                        shared_name="both"),
        node("Identity", "read", ["w"], T=np.float32)], set_up(v=ONES), Run({}, ["read:0"]))
    yield graph_case("VariableV2", "own container", [
        *reference("v", ONES, container="one"), node("VariableV2", "w", dtype=np.float32, shape=(2,), shared_name="v"),
        node("IsVariableInitialized", "ready", ["w"], dtype=np.float32)], set_up(v=ONES), Run({}, ["ready:0"]))
    yield graph_case("VariableV2", "bad name", [
        node("VariableV2", "v", dtype=np.float32, shape=(2,), shared_name="_v"),
        node("IsVariableInitialized", "ready", ["v"], dtype=np.float32)], Run({}, ["ready:0"]))
    yield graph_case("Variable", "first version", [
        node("Variable", "v", dtype=np.float32, shape=(2,)), *fed(x=ONES),
        node("Assign", "init", ["v", "x"], T=np.float32)], Run(feeds(x=ONES), ["init:0"]), Run({}, ["v:0"]))
    nodes = [node("TemporaryVariable", "v", dtype=np.float32, shape=(2,), var_name="t"), *fed(x=ONES),
             node("Assign", "init", ["v", "x"], T=np.float32), node("AssignAdd", "add", ["init", "x"], T=np.float32),
             node("DestroyTemporaryVariable", "end", ["add"], T=np.float32, var_name="t")]
    yield graph_case("TemporaryVariable", "life", nodes, Run(feeds(x=ONES), ["end:0"]), Run(feeds(x=ONES), ["end:0"]))
    nodes = [*nodes[:-1], node("DestroyTemporaryVariable", "end", ["add"], T=np.float32, var_name="u")]
    yield graph_case("DestroyTemporaryVariable", "wrong name", nodes, Run(feeds(x=ONES), ["end:0"]), text=False)


def _resource_rules() -> Iterator[Case]:
    # Another variable exists, so that TensorFlow tells of a missing resource and not of a missing container.
    other = [*resource("o", ONES)]
    index, row = np.array([0], np.int32), np.ones(1, np.float32)
    missing = {
        "ReadVariableOp": node("ReadVariableOp", "op", ["v"], dtype=np.float32),
        "VariableShape": node("VariableShape", "op", ["v"]),
        "AssignAddVariableOp": node("AssignAddVariableOp", "op", ["v", "x"], dtype=np.float32),
        "ResourceGather": node("ResourceGather", "op", ["v", "i"], dtype=np.float32, Tindices=np.int32),
        "ResourceGatherNd": node("ResourceGatherNd", "op", ["v", "i"], dtype=np.float32, Tindices=np.int32),
        "ResourceScatterAdd": node("ResourceScatterAdd", "op", ["v", "i", "r"], dtype=np.float32, Tindices=np.int32),
        "DestroyResourceOp": node("DestroyResourceOp", "op", ["v"], ignore_lookup_error=False),
    }
    inputs = {"x": ONES, "i": index, "r": row}
    for op, main in missing.items():
        used = {name: value for name, value in inputs.items() if name in main.input}
        has_output = op in ("ReadVariableOp", "VariableShape", "ResourceGather", "ResourceGatherNd")
        yield graph_case(op, "missing", [*other, *resource("v", ONES), *fed(**used), main], set_up(o=ONES),
                         Run(feeds(**used), ["op:0"] if has_output else [], [] if has_output else ["op"]))
    yield graph_case("DestroyResourceOp", "missing, ignored", [*resource("v", ONES),
                                                                node("DestroyResourceOp", "op", ["v"])],
                     Run({}, [], ["op"]))
    three = np.arange(3, dtype=np.float32)
    nodes = [*resource("v", ONES, shape=None), *fed(x=three),
             node("AssignVariableOp", "strict", ["v", "x"], dtype=np.float32, validate_shape=True),
             node("AssignAddVariableOp", "add", ["v", "x"], dtype=np.float32)]
    yield graph_case("AssignVariableOp", "another shape", nodes, set_up(v=ONES), Run(feeds(x=three), [], ["add"]),
                     Run(feeds(x=three), [], ["strict"]), set_up(v=three), Run({}, ["v_read:0"]))
    number = np.arange(2, dtype=np.int32)
    nodes = [*resource("v", ONES), node("VarHandleOp", "w", dtype=np.int32, shape=(2,), shared_name="v"),
             *fed(x=number), node("AssignVariableOp", "op", ["w", "x"], dtype=np.int32),
             node("ReadVariableOp", "read", ["w"], dtype=np.int32)]
    yield graph_case("AssignVariableOp", "another type", nodes, set_up(v=ONES), Run(feeds(x=number), [], ["op"]),
                     Run({}, ["read:0"]), text=False)
    yield graph_case("DisableCopyOnRead", "set", [*resource("v", ONES), node("DisableCopyOnRead", "op", ["v"])],
                     set_up(v=ONES), Run({}, [], ["op"]), Run({}, ["v_read:0"]))


def _scatters(name: str, kind: Any, shapes: Sequence[tuple[int, ...]]) -> Iterator[Case]:
    data_type = from_numpy(np.dtype(kind))
    rows = {"unique": [2, 0], "repeated": [1, 1, 3, 1], "none": [], "matrix": [[0, 1], [3, 0]]}
    for case, indices in rows.items():
        for shape in shapes:
            index = np.array(indices, np.int32 if case != "matrix" else np.int64)
            start, change = values(kind, shape, 1), values(kind, (*index.shape, *shape[1:]), 2)
            if name == "Div":
                change = np.where(change == 0, np.ones((), kind), change)
            yield from _scatter(name, data_type, f"{np.dtype(kind).name}{list(shape)} {case}", start, index, change)
    start = values(kind, (3, 2), 1)
    yield from _scatter(name, data_type, f"{np.dtype(kind).name} scalar update", start, np.array([1, 0, 1], np.int32),
                        np.array(3, kind))


def _scatter(name: str, data_type: Any, label: str, start: np.ndarray, index: np.ndarray,
             change: np.ndarray, fails: bool = False) -> Iterator[Case]:
    """Yield the op on both kinds of variables; one that fails leaves what TensorFlow has done until then, so that
    nothing is read after it."""
    inputs = fed(i=index, u=change)
    options: dict[str, Any] = {"absolute": 1e-3 if start.dtype == np.float16 else 1e-6}
    nodes = [*reference("v", start), *inputs, node(f"Scatter{name}", "op", ["v", "i", "u"], T=data_type,
                                                   Tindices=from_numpy(index.dtype))]
    after = [] if fails else [Run({}, ["v:0"])]
    yield graph_case(f"Scatter{name}", label, nodes, set_up(v=start), Run(feeds(i=index, u=change), ["op:0"]), *after,
                     **options)
    nodes = [*resource("v", start), *inputs, node(f"ResourceScatter{name}", "op", ["v", "i", "u"], dtype=data_type,
                                                  Tindices=from_numpy(index.dtype))]
    after = [] if fails else [Run({}, ["v_read:0"])]
    yield graph_case(f"ResourceScatter{name}", label, nodes, set_up(v=start), Run(feeds(i=index, u=change), [], ["op"]),
                     *after, **options)


def _scatter_rules() -> Iterator[Case]:
    start = values(np.float32, (4, 2))
    bad: Sequence[tuple[str, np.ndarray, np.ndarray]] = (
        ("too large", np.array([0, 9], np.int32), values(np.float32, (2, 2))),
        ("negative", np.array([[0], [-1]], np.int32), values(np.float32, (2, 1, 2))),
        ("wrong count", np.array([0, 1], np.int32), values(np.float32, (3, 2))),
    )
    for label, index, change in bad:
        yield from _scatter("Add", from_numpy(start.dtype), label, start, index, change, fails=True)
    zero = np.array([0], np.int32)
    number = np.array(1.0, np.float32)
    nodes = [*reference("v", number, shape=None), *fed(i=zero, u=np.ones(1, np.float32)),
             node("ScatterAdd", "op", ["v", "i", "u"], T=np.float32, Tindices=np.int32)]
    yield graph_case("ScatterAdd", "scalar", nodes, set_up(v=number),
                     Run(feeds(i=zero, u=np.ones(1, np.float32)), ["op:0"]))


def _gathers() -> Iterator[Case]:
    start = values(np.float32, (3, 4, 2))
    wanted: dict[str, tuple[np.ndarray, int]] = {
        "vector": (np.array([2, 0, 2], np.int32), 0), "scalar": (np.array(1, np.int64), 0),
        "matrix": (np.array([[0, 1], [2, 2]], np.int32), 0), "none": (np.zeros((0,), np.int32), 0),
        "batch": (np.array([[0, 3], [1, 1], [2, 0]], np.int32), 1), "bad": (np.array([[0, 3]], np.int32), 0),
        "negative": (np.array([0, -1], np.int32), 0),
    }
    for label, (index, batch) in wanted.items():
        nodes = [*resource("v", start), *fed(i=index),
                 node("ResourceGather", "op", ["v", "i"], dtype=np.float32, Tindices=from_numpy(index.dtype),
                      batch_dims=batch)]
        yield graph_case("ResourceGather", label, nodes, set_up(v=start), Run(feeds(i=index), ["op:0"]))
    empty = values(np.float32, (0, 2))
    nodes = [*resource("v", empty), *fed(i=wanted["none"][0]),
             node("ResourceGather", "op", ["v", "i"], dtype=np.float32, Tindices=np.int32)]
    yield graph_case("ResourceGather", "of nothing", nodes, set_up(v=empty),
                     Run(feeds(i=wanted["none"][0]), ["op:0"]))
    for label, index in {"rows": np.array([[2], [0]], np.int32), "cells": np.array([[2, 3, 1], [0, 0, 0]], np.int64),
                         "pairs": np.array([[[0, 1]], [[2, 2]]], np.int32), "whole": np.zeros((2, 0), np.int32),
                         "bad": np.array([[0, 1], [0, 4]], np.int32), "one": np.array([1, 1], np.int32),
                         "bad one": np.array([7], np.int32)}.items():
        nodes = [*resource("v", start), *fed(i=index),
                 node("ResourceGatherNd", "op", ["v", "i"], dtype=np.float32, Tindices=from_numpy(index.dtype))]
        yield graph_case("ResourceGatherNd", label, nodes, set_up(v=start), Run(feeds(i=index), ["op:0"]))


def _counters() -> Iterator[Case]:
    for kind in (np.int32, np.int64):
        start = np.array(3, kind)
        data_type = from_numpy(start.dtype)
        nodes = [*reference("v", start), node("CountUpTo", "op", ["v"], T=data_type, limit=5)]
        count = Run({}, ["op:0"])
        yield graph_case("CountUpTo", np.dtype(kind).name, nodes, count, set_up(v=start), count, count, count)
        nodes = [*resource("v", start), node("ResourceCountUpTo", "op", ["v"], T=data_type, limit=5)]
        yield graph_case("ResourceCountUpTo", np.dtype(kind).name, nodes, set_up(v=start), count, count, count)
