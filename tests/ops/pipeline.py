"""Pipelines of datasets as cases: a chain of dataset ops, an iterator over it, and its elements, a run for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from runtime.dtypes import DataType, from_numpy, to_numpy
from runtime.ops import opdef
from tests.ops.case import Case, Run, as_array, called, const, function, graph_case, node
from tests.ops.values import TYPES, values

__all__ = ["COUNT", "WIDE", "Pipeline", "Signature"]

Signature = Sequence[tuple[DataType, tuple[int | None, ...] | None]]
"""Types and shapes of the components of an element."""

COUNT: Signature = ((DataType.INT64, ()),)
"""Elements that are one number."""

WIDE = tuple(values(to_numpy(kind), (3, 2), seed) for seed, kind in enumerate(TYPES))
"""Three elements with a component of every type."""


class Pipeline:
    """Nodes of a case; every method that makes a dataset returns its name.

    Parameters
    ----------
    signature : Signature
        Of the elements, where a method is told nothing else.
    """

    def __init__(self, signature: Signature = COUNT) -> None:
        self.signature = signature
        self.nodes: list[Any] = []
        self.library: list[Any] = []

    def const(self, value: Any) -> str:
        """Add a constant."""
        name = f"const{len(self.nodes)}"
        self.nodes.append(const(name, value))
        return name

    def add(self, op: str, *inputs: Any, signature: Signature | None = None, controls: Sequence[str] = (),
            **attrs: Any) -> str:
        """Add a node, with the attrs that tell the elements where its op has them; inputs other than
        names (bytes for a text) are constants."""
        names = [value if isinstance(value, str) else self.const(value) for value in inputs]
        elements = self.signature if signature is None else signature
        definition = opdef.lookup(op)
        assert definition is not None, op
        for attr in ("output_types", "Toutput_types"):
            if attr in definition.attrs:
                attrs.setdefault(attr, [kind for kind, _ in elements])
        if "output_shapes" in definition.attrs:
            attrs.setdefault("output_shapes", [shape for _, shape in elements])
        name = f"n{len(self.nodes)}"
        self.nodes.append(node(op, name, [*names, *(f"^{control}" for control in controls)], **attrs))
        return name

    def numbers(self, count: int, start: int = 0) -> str:
        """Add a dataset of numbers."""
        return self.add("RangeDataset", np.int64(start), np.int64(start + count), np.int64(1), signature=COUNT)

    def slices(self, *components: Any) -> str:
        """Add a dataset of the rows of arrays; they make the signature."""
        arrays = [as_array(value) for value in components]
        self.signature = [(from_numpy(array.dtype), array.shape[1:]) for array in arrays]
        return self.add("TensorSliceDataset", *arrays)

    def wide(self) -> str:
        """Add a dataset of three elements with a component of every type."""
        return self.slices(*WIDE)

    def body(self, name: str, inputs: Mapping[str, DataType], outputs: Mapping[str, tuple[str, DataType]],
             *nodes: Any) -> Any:
        """Add a function; return what names it."""
        self.library.append(function(name, inputs, outputs, nodes))
        return called(name)

    def same(self) -> Any:
        """Add the function that returns an element as it is."""
        kinds = {f"x{place}": kind for place, (kind, _) in enumerate(self.signature)}
        return self.body("same", kinds, {f"y{name[1:]}": (name, kind) for name, kind in kinds.items()})

    def times(self, factor: int = 10, name: str = "times") -> Any:
        """Add the function that multiplies a number."""
        return self.body(name, {"x": DataType.INT64}, {"y": ("mul:z:0", DataType.INT64)},
                         const("factor", np.int64(factor)),
                         node("Mul", "mul", ["x", "factor:output:0"], T=DataType.INT64))

    def above(self, limit: int = 2, name: str = "above") -> Any:
        """Add the predicate that holds for larger numbers."""
        return self.body(name, {"x": DataType.INT64}, {"y": ("greater:z:0", DataType.BOOL)},
                         const("limit", np.int64(limit)),
                         node("Greater", "greater", ["x", "limit:output:0"], T=DataType.INT64))

    def always(self) -> Any:
        """Add the predicate that holds for every element."""
        kinds = {f"x{place}": kind for place, (kind, _) in enumerate(self.signature)}
        return self.body("always", kinds, {"y": ("yes:output:0", DataType.BOOL)}, const("yes", np.bool_(True)))

    def case(self, op: str, label: str, dataset: str, count: int, *, signature: Signature | None = None,
             passes: int = 1, **options: Any) -> Case:
        """Return the case of an iterator that is asked for `count` elements and then for the end of each pass."""
        elements = self.signature if signature is None else signature
        types = {"output_types": [kind for kind, _ in elements], "output_shapes": [shape for _, shape in elements]}
        nodes = [*self.nodes, node("IteratorV2", "iterator", shared_name="", container="", **types),
                 node("MakeIterator", "start", [dataset, "iterator"]),
                 node("IteratorGetNext", "next", ["iterator"], **types)]
        following = Run({}, [f"next:{place}" for place in range(len(elements))])
        runs = [Run({}, [], ["start"]), *[following] * (count + 1)] * passes
        return graph_case(op, label, nodes, *runs, library=self.library, **options)
