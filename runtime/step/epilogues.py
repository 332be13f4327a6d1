"""Products and convolutions with element-wise kernels behind them become one kernel: biases, activations, sums.

The element-wise steps run over every part of the product as soon as that is complete and still lies in the cache, with
the loops of their own kernels, so the bits are the same. A product that is only added to a dying value of its shape, as
gradients over the turns of a loop are, is formed in the memory of that value.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from runtime._ext.executor import BoundKernel, Program
from runtime._ext.kernels import fused
from runtime.dtypes import to_numpy
from runtime.step.parts import Parts

__all__ = ["Step", "find_product", "join", "products_of"]

Step = tuple[BoundKernel, int, int]
"""A kernel and its operands: an input, or -1 - an earlier step."""


def products_of(bounds: Sequence[BoundKernel], outputs: Sequence[Sequence[int]], wanted: Collection[int]
                ) -> dict[int, int]:
    """Return the places of products that may be joined to what reads them, by the values that they make.

    Parameters
    ----------
    wanted : collection of int
        Values that are fetched.
    """
    return {outputs[index][0]: index for index, bound in enumerate(bounds)
            if fused.product_type(bound) >= 0 and outputs[index][0] not in wanted}


def find_product(group: Collection[int], kind: int, bounds: Sequence[BoundKernel], inputs: Sequence[Sequence[int]],
                 products: Mapping[int, int], readers: Mapping[int, Sequence[int]], writes: Sequence[int]
                 ) -> int | None:
    """Return the place of the product that a group of element-wise kernels can be joined to.

    If there are some, the latest. Nobody but the group may read it, and none moves behind a write to a variable.

    Parameters
    ----------
    kind : int
        numpy type number of the group.
    """
    root = max(group)
    found = None
    for value in {value for index in group for value in inputs[index]}:
        place = products.get(value)
        if (
            place is not None
            and (found is None or place > found)
            and fused.product_type(bounds[place]) == kind
            and writes[place] == writes[root]
            and all(reader in group for reader in readers[value])
        ):
            found = place
    return found


def join(product: tuple[BoundKernel, Sequence[int], int], steps: Sequence[Step], taken: Sequence[int],
         rest: tuple[BoundKernel, Sequence[int]], path: str) -> tuple[BoundKernel, list[int]] | None:
    """Return the kernel of a product and the steps behind it, and the values that it takes; None when there is none.

    Parameters
    ----------
    product : tuple
        Its kernel, the values that it takes, and the one that it makes.
    taken : sequence of int
        The values that the steps take, in the order of their operands.
    rest : tuple
        The kernel of the steps alone, and the values that it takes: for calls that the joined one is not made for.
    path : str
        Names of the calls around the nodes.
    """
    bound, values, made = product
    compiled = fused.finish(bound, steps, len(taken), taken.index(made))
    if compiled is None:
        return None
    behind, behind_takes = rest
    everything = [*values, *(value for value in taken if value != made)]
    count = len(everything)
    types = [to_numpy(behind.node.output_types[0]).num]
    places = {**{value: index for index, value in enumerate(everything)}, made: count}

    def parts() -> Program:
        return Program([bound, behind], [range(len(values)), [places[value] for value in behind_takes]],
                       [[count], [count + 1]], count + 2, [], types * count, [count + 1], [None], None,
                       path)

    joined = BoundKernel(behind.node, behind.name, Parts(parts), compiled, count, types, None, True)
    return joined, everything
