"""Element-wise kernels that only feed each other become one kernel, which goes over memory once.

A group is a tree of compiled element-wise kernels of one element type: nothing outside of it reads its intermediate
values, and nobody fetches them. It runs where its last kernel stood. Where others do need intermediate values, the
group has several outputs, see `runtime.step.wide_groups`. The parts stay at hand: a step that is traced runs them one
by one, and so does a call for which the fused kernel is not made (other layouts, shapes that broadcast in both
directions, errors): results, and the node that an error names, are those of the parts.

A group that reads a product runs together with it, see `runtime.step.epilogues`.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import TYPE_CHECKING

from runtime._ext.executor import BoundKernel, Program
from runtime._ext.kernels import fused
from runtime.dtypes import REF_OFFSET, to_numpy
from runtime.step.epilogues import Step, find_product, join, products_of
from runtime.step.parts import Parts
from runtime.step.sums import Instructions, unfold_sums
from runtime.step.wide_groups import Line, grow_wide

if TYPE_CHECKING:
    from runtime._ext.kernel_abi import CompiledKernel
    from runtime.graph.node import Node

__all__ = ["fuse"]

# Ops with state, or of references, whose place among readers of variables does not matter.
_READS = frozenset(
    """
    Identity IsVariableInitialized ReadVariableOp ResourceGather VarIsInitializedOp RandomStandardNormal RandomUniform
    RandomUniformInt StackPop StackPopV2 StackPush StackPushV2 StackV2 TensorArrayGatherV3 TensorArrayGradV3
    TensorArrayReadV3 TensorArrayScatterV3 TensorArraySizeV3 TensorArrayV3 TensorArrayWriteV3 TruncatedNormal
    """.split()  # noqa: SIM905
)


def fuse(instructions: Instructions, wanted: Sequence[int], path: str,
         conditions: Sequence[object] | None = None) -> Instructions | None:
    """Return the instructions with groups fused, or None when there is nothing to fuse.

    Parameters
    ----------
    wanted : sequence of int
        Values that are fetched, or that conditions depend on.
    path : str
        Names of the calls around the nodes.
    conditions : sequence, optional
        Under which conditions each kernel runs, in a line with conditionals: then none runs earlier than it stands.
    """
    types = [fused.element_type(bound) for bound in instructions[0]]
    elementwise = sum(kind >= 0 for kind in types)
    if elementwise == 0 or (elementwise == 1 and not products_of(instructions[0], instructions[2], ())):
        return None
    unfolded = None
    if conditions is None:
        unfolded = unfold_sums(instructions, types, _writes_before(instructions[0]), set(wanted))
    if unfolded is not None:
        instructions = unfolded
        types = [fused.element_type(bound) for bound in instructions[0]]
    bounds, inputs, outputs, num_values = instructions
    producers = {made[0]: index for index, made in enumerate(outputs) if types[index] >= 0}
    products = products_of(bounds, outputs, set(wanted))
    readers: dict[int, list[int]] = {value: [] for value in (*producers, *products)}
    for index, taken in enumerate(inputs):
        for value in set(taken):
            if value in readers:
                readers[value].append(index)
    for value in wanted:
        producers.pop(value, None)
    writes = _writes_before(bounds)
    inside: set[int] = set()
    kernels: dict[int, tuple[BoundKernel, list[int], list[int]]] = {}
    made_by = {value: index for index, made in enumerate(outputs) for value in made}
    places = [float(index) for index in range(len(bounds))]
    line = Line(types, inputs, outputs, made_by, readers, set(wanted), writes, places, conditions)
    for root in range(len(bounds) - 1, -1, -1):
        if types[root] < 0 or root in inside:
            continue
        group, is_whole = _grow(root, types, inputs, producers, readers, writes, inside)
        product = find_product(group, types[root], bounds, inputs, products, readers, writes) if products else None
        made = None
        if product is not None:
            made = _joined(product, group, bounds, inputs, outputs, path)
            if made is not None:
                inside.add(product)
                places[product] = float(root)
        makers = [root]
        if made is None and not is_whole:
            wide = grow_wide(root, line, inside)
            if wide is not None and len(wide.members) > len(group):
                made = _fused(wide.members, bounds, inputs, outputs, path, wide.outputs)
                if made is not None:
                    group, makers, places[root] = wide.members, wide.outputs, wide.place
        if made is None and len(group) > 1:
            made = _fused(group, bounds, inputs, outputs, path, makers)
        if made is not None:
            kernels[root] = (*made, [outputs[index][0] for index in makers])
            inside.update(group)
            for index in group:
                places[index] = places[root]
    if not kernels:
        return None
    result: Instructions = ([], [], [], num_values)
    for index in sorted(range(len(bounds)), key=places.__getitem__):
        if index in inside and index not in kernels:
            continue
        kernel, taken, made_here = kernels.get(index, (bounds[index], inputs[index], outputs[index]))
        result[0].append(kernel)
        result[1].append(taken)
        result[2].append(made_here)
    return result


def _writes_before(bounds: Sequence[BoundKernel]) -> list[int]:
    """Return for every place how many kernels before it may write to what lives longer than the step's values."""
    result = []
    count = 0
    for bound in bounds:
        result.append(count)
        count += _may_write(bound.node)
    return result


def _may_write(node: Node) -> bool:
    if node.op in _READS:
        return False
    return node.op_def is None or node.op_def.is_stateful or any(kind > REF_OFFSET for kind in node.input_types)


def _grow(root: int, types: Sequence[int], inputs: Sequence[Sequence[int]], producers: dict[int, int],
          readers: dict[int, list[int]], writes: Sequence[int], inside: set[int]) -> tuple[set[int], bool]:
    """Return the kernels that can run together with the one at `root`, itself included, and whether no other kernel was
    kept out because somebody else needs what it makes.

    The latest candidate is looked at first: all its readers have been decided by then. One from before a write stays
    where it is, for a reader that ran after the write would have made the writer copy.
    """
    group = {root}
    is_whole = True
    outside = set(inputs[root])
    candidates = [-producers[value] for value in outside if value in producers]
    heapq.heapify(candidates)
    while candidates and len(group) < fused.MAX_STEPS:
        index = -heapq.heappop(candidates)
        if index in group or index in inside or types[index] != types[root] or writes[index] != writes[root]:
            continue
        value = next(value for value in outside if producers.get(value) == index)
        grown = (outside - {value}) | set(inputs[index])
        if any(reader not in group for reader in readers[value]):
            is_whole = False
            continue
        if len(grown) > fused.MAX_INPUTS:
            continue
        group.add(index)
        outside = grown
        for value in inputs[index]:
            if value in producers:
                heapq.heappush(candidates, -producers[value])
    return group, is_whole and not any(value in readers and value not in producers for value in outside)


def _steps(group: set[int], bounds: Sequence[BoundKernel], inputs: Sequence[Sequence[int]],
           outputs: Sequence[Sequence[int]]) -> tuple[list[Step], dict[int, int]] | None:
    """Return a group as steps, and the places of the values that it takes; None when a bias is made within it."""
    members = sorted(group)
    made = {outputs[index][0]: place for place, index in enumerate(members)}
    taken: dict[int, int] = {}
    for index in members:
        for value in inputs[index]:
            if value not in made:
                taken.setdefault(value, len(taken))
    steps: list[Step] = []
    for index in members:
        operands = [-1 - made[value] if value in made else taken[value] for value in inputs[index]]
        if operands[-1] < 0 and fused.is_bias(bounds[index]):
            return None
        steps.append((bounds[index], operands[0], operands[-1]))
    return steps, taken


def _fused(group: set[int], bounds: Sequence[BoundKernel], inputs: Sequence[Sequence[int]],
           outputs: Sequence[Sequence[int]], path: str, makers: Sequence[int] | None = None
           ) -> tuple[BoundKernel, list[int]] | None:
    """Return the kernel of a group and the values that it takes.

    Parameters
    ----------
    makers : sequence of int, optional
        Those of the group whose values others need, rising; the last one alone unless given.
    """
    found = _steps(group, bounds, inputs, outputs)
    if found is None:
        return None
    steps, taken = found
    members = sorted(group)
    results = [members.index(maker) for maker in makers or members[-1:]]
    compiled: CompiledKernel | None = fused.fuse(steps, len(taken), results)
    if compiled is None:
        return None
    last = bounds[members[-1]]
    node: Node = last.node
    types = [to_numpy(node.output_types[0]).num]

    def parts() -> Program:
        count = len(taken)
        places = {**taken, **{outputs[index][0]: count + step for step, index in enumerate(members)}}
        return Program([bounds[index] for index in members], [[places[value] for value in inputs[index]]
                                                              for index in members],
                       [[places[outputs[index][0]]] for index in members], count + len(members), [], types * count,
                       [count + step for step in results], [None] * len(results), None, path)

    bound = BoundKernel(node, last.name, Parts(parts), compiled, len(taken), types * len(results), None, True)
    return bound, list(taken)


def _joined(product: int, group: set[int], bounds: Sequence[BoundKernel], inputs: Sequence[Sequence[int]],
            outputs: Sequence[Sequence[int]], path: str) -> tuple[BoundKernel, list[int]] | None:
    """Return the kernel of a product with a group behind it, and the values that it takes."""
    found = _steps(group, bounds, inputs, outputs)
    root = max(group)
    rest = (bounds[root], inputs[root]) if len(group) == 1 else _fused(group, bounds, inputs, outputs, path)
    if found is None or rest is None:
        return None
    steps, taken = found
    return join((bounds[product], inputs[product], outputs[product][0]), steps, list(taken), rest, path)
