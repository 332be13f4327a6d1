"""Whether the time of a step follows from the sizes of its feeds: only such a step may be judged by earlier runs."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from runtime._ext.errors import Error
from runtime.ops import opdef, registry
from runtime.step.functions import callees
from runtime.step.long_ops import WITHIN_INPUTS

if TYPE_CHECKING:
    from runtime.graph.library import FunctionLibrary
    from runtime.graph.node import Node

__all__ = ["is_bounded"]

# As often as a value says.
_LOOPS = frozenset({"Enter", "RefEnter", "While", "StatelessWhile", "For", "MapDefun"})

# Compiled when first taken, which may be in any run.
_BRANCHES = frozenset({"If", "StatelessIf", "Case", "StatelessCase"})
_MOST_BRANCH_NODES = 200

_SIZES = frozenset({"Shape", "ShapeN", "Size", "Rank"})
"""Ops that tell of an input nothing but its size."""

def is_bounded(nodes: Sequence[Node], fed: Collection[Node], library: FunctionLibrary) -> bool:
    """Tell whether feeds of equal sizes make a step take equally long, as far as its nodes show.

    It is not when the step loops, or when an op that makes as much as a value says (``Fill``, ``Range``, ``Tile``)
    takes that value from anywhere but constants and shapes, or when a large branch may have to be compiled in any run.

    Parameters
    ----------
    nodes : sequence of Node
        Producers before consumers, loop back edges excepted.
    fed : collection of Node
        Those with a fed output.
    library : FunctionLibrary
    """
    calls: dict[str, set[str]] = {}  # function -> those that it calls; "" is the step itself
    pending: list[tuple[str, Sequence[Node], Collection[Node]]] = [("", nodes, fed)]
    has_branch = False
    total = 0
    while pending:
        name, scanned, known_fed = pending.pop()
        called = calls[name] = set()
        ops = {node.op for node in scanned}
        if not ops.isdisjoint(_LOOPS):
            return False
        has_branch = has_branch or not ops.isdisjoint(_BRANCHES)
        calling = {op for op in ops if _may_call(op)}
        for node in scanned if calling else ():
            if node.op not in calling:
                continue
            for callee, attrs in callees(node):
                called.add(callee)
                if callee not in calls:
                    calls[callee] = set()
                    body = list(library.body(callee, attrs).graph.nodes.values())
                    total += len(body)
                    pending.append((callee, body, ()))
        hosts = {op: _host_inputs(op) for op in ops - WITHIN_INPUTS}
        if any(hosts.values()) and _makes_what_values_say(scanned, known_fed, hosts):
            return False
    return not (has_branch and total > _MOST_BRANCH_NODES) and not _has_cycle(calls)


@lru_cache(maxsize=4096)
def _may_call(op: str) -> bool:
    """Tell whether nodes of an op call functions: it is one itself, or has them as attrs."""
    known = opdef.lookup(op)
    return known is None or any(attr.kind in ("func", "list(func)") for attr in known.attrs.values())


def _makes_what_values_say(
    nodes: Sequence[Node], fed: Collection[Node], hosts: Mapping[str, tuple[int, ...]]
) -> bool:
    known: set[Node] = set()  # their values follow from constants and sizes
    for node in nodes:
        op = node.op
        if op == "Const" or op in _SIZES:
            if node not in fed:
                known.add(node)
            continue
        inputs = node.inputs
        for index in hosts.get(op, ()):
            if -len(inputs) <= index < len(inputs) and inputs[index][0] not in known:
                return True
        if inputs and node not in fed and all(source in known for source, _ in inputs):
            known.add(node)
    return False


def _has_cycle(calls: Mapping[str, Collection[str]]) -> bool:
    """Tell whether some function calls itself, directly or by way of others."""
    waiting = {name: len(called) for name, called in calls.items()}
    callers: dict[str, list[str]] = {name: [] for name in calls}
    for name, called in calls.items():
        for callee in called:
            callers[callee].append(name)
    ready = [name for name, count in waiting.items() if not count]
    done = 0
    while ready:
        done += 1
        for caller in callers[ready.pop()]:
            waiting[caller] -= 1
            if not waiting[caller]:
                ready.append(caller)
    return done < len(calls)


@lru_cache(maxsize=4096)
def _host_inputs(op: str) -> tuple[int, ...]:
    try:
        return tuple(registry.find(op).host)
    except Error:  # said when that node is compiled
        return ()
