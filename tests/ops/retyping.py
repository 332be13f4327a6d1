"""The same cases with other types: what the tables write down for some types of an op is checked for all it allows."""

from __future__ import annotations

import copy
import functools
import importlib
import pkgutil
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from runtime.dtypes import DataType, from_numpy, to_numpy
from runtime.errors import Error
from runtime.ops import opdef, registry
from tests.ops import cases as tables
from tests.ops.case import Case, array, tensor
from tests.ops.kernel_runner import KernelRunner
from tests.ops.step_runner import CaseInSteps
from tests.ops.values import TYPES

__all__ = ["FAMILIES", "covered", "family_cases", "left_out", "retyped_cases", "wanted", "written"]

FAMILIES = sorted(module.name for module in pkgutil.iter_modules(tables.__path__))

# Values of these seldom stand for anything but what the type is about; those of integers may be sizes and indices.
_PREFERRED = (DataType.FLOAT, DataType.DOUBLE, DataType.STRING, DataType.INT64, DataType.INT32, DataType.BOOL)
_MOST_TRIED = 6

_LEFT_OUT = Path(__file__).with_name("types_left_out.txt")

Place = tuple[str, str]
"""An op type and one of its type attrs."""


@functools.cache
def family_cases(family: str) -> list[Case]:
    """Return the cases of one table."""
    return list(importlib.import_module(f"tests.ops.cases.{family}").cases())


@functools.cache
def wanted() -> dict[Place, tuple[DataType, ...]]:
    """Return the types that the attrs of every op with a kernel allow."""
    found = {}
    for op in registry.registered():
        definition = opdef.lookup(op)
        assert definition is not None, op
        for attr in definition.attrs.values():
            if attr.kind in ("type", "list(type)"):
                found[op, attr.name] = tuple(kind for kind in TYPES if attr.allowed is None or kind in attr.allowed)
    return found


def _types_of(node: Any, name: str) -> list[int]:
    """Return the types that an attr of a NodeDef has."""
    if name not in node.attr:
        definition = opdef.lookup(node.op)
        attr = definition.attrs[name] if definition is not None else None
        return [int(attr.default)] if attr is not None and attr.has_default and attr.kind == "type" else []
    value = node.attr[name]
    return list(value.list.type) if value.HasField("list") else [value.type]


@functools.cache
def written() -> dict[Place, set[int]]:
    """Return the types of every attr that the tables themselves write down."""
    found: dict[Place, set[int]] = defaultdict(set)
    for family in FAMILIES:
        if family != "retyped":
            _note(family_cases(family), found)
    return dict(found)


def _note(cases: Iterable[Case], found: dict[Place, set[int]]) -> None:
    for case in cases:
        for node in case.all_nodes:
            definition = opdef.lookup(node.op)
            for attr in definition.attrs.values() if definition is not None else ():
                if attr.kind in ("type", "list(type)"):
                    found[node.op, attr.name].update(_types_of(node, attr.name))


def covered() -> dict[Place, set[int]]:
    """Return the types of every attr that cases have, the generated ones included."""
    found: dict[Place, set[int]] = defaultdict(set)
    for family in FAMILIES:
        _note(family_cases(family), found)
    return found


def left_out() -> dict[Place, set[str]]:
    """Return, for every attr, the labels of the types that no case has: ``types_left_out.txt``, with reasons."""
    found: dict[Place, set[str]] = {}
    for line in _LEFT_OUT.read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            op, attr, *labels = line.split()
            found.setdefault((op, attr), set()).update(labels)
    return found


def retyped_cases() -> Iterator[Case]:
    """Yield a case for every type of every attr that no table writes down and that is not left out."""
    by_op: dict[str, list[Case]] = defaultdict(list)
    for family in FAMILIES:
        if family != "retyped":
            for case in family_cases(family):
                by_op[case.op].append(case)
                for op in {node.op for node in case.all_nodes} - {case.op, "Placeholder", "Const"}:
                    by_op[op].append(case)
    told, excused = written(), left_out()
    for (op, attr), types in sorted(wanted().items()):
        if op not in by_op:
            continue
        missing = [kind for kind in types
                   if kind not in told.get((op, attr), ()) and kind.label not in excused.get((op, attr), ())]
        if missing:
            sources = list(_sources(op, attr, by_op[op]))
            for kind in missing:
                made = next((made for case, old in sources if (made := _retyped(case, op, attr, old, kind))), None)
                if made is not None:
                    yield made


def _sources(op: str, attr: str, cases: list[Case]) -> Iterator[tuple[Case, DataType]]:
    """Yield cases that work, with the type that their node has for the attr."""
    tried = 0
    for kind in (*_PREFERRED, *(other for other in TYPES if other not in _PREFERRED)):
        for case in cases:
            if not any(kind in _types_of(node, attr) for node in case.all_nodes if node.op == op):
                continue
            if any(value.size for run in case.runs for value in run.feeds.values()) or not case.runs[0].feeds:
                tried += 1
                if tried > _MOST_TRIED:
                    return
                if _works(case):
                    yield case, kind


def _runner(case: Case) -> KernelRunner | CaseInSteps:
    return CaseInSteps(case) if case.needs_executor else KernelRunner(case)


def _works(case: Case) -> bool:
    try:
        runner = _runner(case)
        for run in case.runs:
            runner.run(run)
        runner.close()
    except Exception:
        return False
    return True


def _retyped(case: Case, op: str, attr: str, old: DataType, new: DataType) -> Case | None:
    """Return a case with another type for an attr; None where that makes no graph."""
    nodes = [copy.deepcopy(node) for node in case.nodes]
    library = [copy.deepcopy(body) for body in case.library]
    by_name = {node.name: node for node in nodes}
    under_test = [node for node in nodes if node.op == op and old in _types_of(node, attr)]
    plain = not library and all(node.op == "Placeholder" or node in under_test for node in nodes)
    changed: set[str] = set()
    if plain:
        for node in under_test:
            _set(node, attr, old, new)
            changed |= {name for name, kind in _inputs_of(node, attr)}
        for name in changed:
            if by_name[name].op == "Placeholder":
                _set(by_name[name], "dtype", old, new)
    else:
        for body in library:
            for arg in (*body.signature.input_arg, *body.signature.output_arg):
                arg.type = new if arg.type == old else arg.type
        for node in (*nodes, *(node for body in library for node in body.node_def)):
            definition = opdef.lookup(node.op)
            for each in definition.attrs.values() if definition is not None else ():
                if each.kind in ("type", "list(type)"):
                    _set(node, each.name, old, new)
                elif each.kind == "tensor" and each.name in node.attr and node.attr[each.name].tensor.dtype == old:
                    node.attr[each.name].tensor.CopyFrom(
                        tensor(_converted(array(node.attr[each.name].tensor), new), new))
    runs, kinds = [], {}
    for run in case.runs:
        feeds = {}
        for name, value in run.feeds.items():
            kind = case.feed_types.get(name, from_numpy(value.dtype))
            if kind == old and (not plain or name.partition(":")[0] in changed):
                value, kind = _converted(value, new), new
            feeds[name], kinds[name] = value, kind
        runs.append(replace(run, feeds=feeds))
    relative = case.relative if new is old or to_numpy(new).itemsize > 2 else None
    made = replace(case, op=op, name=f"{case.name} with {attr}={new.label} of {op}", nodes=nodes, runs=runs,
                   library=library, feed_types={name: kind for name, kind in kinds.items() if name in case.feed_types},
                   relative=relative)
    try:
        _runner(made).close()
    except (Error, AssertionError, KeyError, ValueError):
        return None
    return made


def _inputs_of(node: Any, attr: str) -> list[tuple[str, int]]:
    """Return the names of the nodes whose first output a node takes with the type of an attr."""
    definition = opdef.lookup(node.op)
    assert definition is not None
    found, place = [], 0
    for arg in definition.inputs:
        count = 1
        if arg.number_attr:
            count = node.attr[arg.number_attr].i
        elif arg.list_attr:
            count = len(node.attr[arg.list_attr].list.type)
        if attr in (arg.type_attr, arg.list_attr):
            found += [(name.partition(":")[0], place) for name in node.input[place:place + count]]
        place += count
    return found


def _set(node: Any, name: str, old: int, new: int) -> None:
    if name not in node.attr:
        if old in _types_of(node, name):
            node.attr[name].type = new
        return
    value = node.attr[name]
    if value.HasField("list"):
        value.list.type[:] = [new if kind == old else kind for kind in value.list.type]
    elif value.type == old:
        value.type = new


def _converted(value: np.ndarray, kind: DataType) -> np.ndarray:
    """Return values of another type that are as different from each other as its range allows."""
    dtype = to_numpy(kind)
    if dtype.kind == "O":
        made = np.empty(value.shape, object)
        made.reshape(-1)[:] = [str(item).encode() for item in value.reshape(-1).tolist()]
        return made
    if value.dtype.kind == "O":
        value = np.unique(value.reshape(-1), return_inverse=True)[1].reshape(value.shape)
    if value.dtype.kind == "c":
        value = value.real
    wide = np.nan_to_num(value.astype(np.float64), nan=0, posinf=9, neginf=-9)
    if dtype.kind == "b":
        return np.asarray(wide != 0)
    with np.errstate(all="ignore"):
        if dtype.kind in "iu":
            return np.asarray(np.abs(wide) if dtype.kind == "u" else wide).astype(dtype)
        return np.asarray(wide * (1 + 0.5j) if dtype.kind == "c" else wide).astype(dtype)
