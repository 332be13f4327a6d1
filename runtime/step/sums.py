"""Sums of many values are formed as the values come, where kernels make them that can be fused with the additions.

Ten thousand small values that wait for their sum cost more to keep than to make. The additions are those of the sum's
own kernel, in its order, so the bits are the same.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from runtime._ext.executor import BoundKernel
from runtime._ext.kernels import fused
from runtime.ops.elementwise import add_to_sum

__all__ = ["Instructions", "unfold_sums"]

Instructions = tuple[list[BoundKernel], list[Sequence[int]], list[Sequence[int]], int]
"""Kernels in order, the numbers of the values that each takes and makes (constants are negative), and how many values
there are."""

_Instruction = tuple[BoundKernel, Sequence[int], Sequence[int]]


def unfold_sums(instructions: Instructions, types: Sequence[int], writes: Sequence[int],
                wanted: Collection[int]) -> Instructions | None:
    """Return the instructions with such sums as additions of two values each; None when there are none.

    What makes a value for a sum alone goes right before its addition.

    Parameters
    ----------
    types : sequence of int
        Per kernel what `fused.element_type` says.
    writes : sequence of int
        Per kernel how many before it may write to variables; none is moved behind a write.
    wanted : collection of int
        Values that are fetched.
    """
    bounds, inputs, outputs, num_values = instructions
    sums = [index for index, bound in enumerate(bounds) if len(inputs[index]) > 2 and fused.sum_type(bound) >= 0]
    if not sums:
        return None
    readers: dict[int, int] = {}
    for taken in inputs:
        for value in taken:
            readers[value] = readers.get(value, 0) + 1
    places = {value: index for index, made in enumerate(outputs) for value in made}
    single = {
        made[0]: index for index, made in enumerate(outputs)
        if types[index] >= 0 and readers.get(made[0]) == 1 and made[0] not in wanted
    }
    behind: dict[int, list[_Instruction]] = {}  # place -> what comes behind it
    moved = set()
    for index in sums:
        bound, values = bounds[index], inputs[index]
        kind = fused.sum_type(bound)
        makers = [single.get(value, -1) for value in values]
        makers = [maker if maker >= 0 and types[maker] == kind and writes[maker] == writes[index] else -1
                  for maker in makers]
        if 2 * sum(maker >= 0 for maker in makers) < len(values):
            continue
        moved.add(index)
        total, place = values[0], places.get(values[0], -1)
        for number in range(1, len(values)):
            maker, value = makers[number], values[number]
            place = max([place, *(places.get(taken, -1) for taken in (inputs[maker] if maker >= 0 else [value]))])
            if number == len(values) - 1:
                result = outputs[index][0]
            else:
                result, num_values = num_values, num_values + 1
            following = behind.setdefault(place, [])
            if maker >= 0:
                moved.add(maker)
                following.append((bounds[maker], inputs[maker], outputs[maker]))
            addition = fused.partial_sum(bound, add_to_sum(bound.node, number))
            following.append((addition, [total, value], [result]))
            total = result
    if not moved:
        return None
    made: Instructions = ([], [], [], num_values)
    for index in range(-1, len(bounds)):
        kept = [(bounds[index], inputs[index], outputs[index])] if index >= 0 and index not in moved else []
        for kernel, takes, makes in (*kept, *behind.get(index, ())):
            made[0].append(kernel)
            made[1].append(takes)
            made[2].append(makes)
    return made
