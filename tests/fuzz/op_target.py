"""Graphs of one op with inputs and attrs that seldom go together: each must end with a value or a clear error.

``python -m tests.fuzz.op_target --seed N --cases M`` runs M graphs of every op in this process and prints what came of
them that is neither; a crash names its graph by the last line. ``test_op_fuzz.py`` runs a few, in a process of its own.
"""

from __future__ import annotations

import argparse
import logging
import random
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from runtime import wire
from runtime.dtypes import DataType, to_numpy
from runtime.errors import Error
from runtime.master.master import Master
from runtime.master.task import Task
from runtime.ops import opdef, registry
from runtime.step.files import FileAccess
from runtime.step.runner import StepRunner
from tests.ops.case import const, node
from tests.ops.values import TYPES

STEP_TIMEOUT_MS = 2000
HANGS_S = 10.0
"""What a step with the timeout above may take at most, on a busy machine."""

ABSURD = (0, -1, 1, 2, 3, 7, 1 << 20, 1 << 31, 1 << 40, 1 << 62, -(1 << 62), (1 << 63) - 1)
TEXTS = (b"", b"a", b"\xff\x00", b"(((", b"1,2", b"a" * 300, b"\x08\x01")
WORDS = ("", "SAME", "VALID", "NHWC", "NCHW", "REFLECT", "a,b->", "ij,jk->ik", "bilinear", "min", "\xff")
NO_ERROR_OF_OURS = frozenset((13, 2))
"""Internal and unknown: how a failure that no definition foresaw arrives."""

FORESEEN = ("only member of its group", "Invalid variable reference", "was not valid", "PNG encoding failed",
            "Unexpected error in binary operator", "does not match declared output type")
"""Texts of those that TensorFlow calls internal too."""

NOT_HERE = frozenset(("Abort",))
"""Ops that are not for a test: none of them gives a value or an error."""


class OpGraph:
    """A graph of one op, made from a seed.

    Attributes
    ----------
    proto : GraphDef
        The op is its last node, called ``op``.
    feeds : dict
    """

    def __init__(self, op: str, seed: int) -> None:
        definition = opdef.lookup(op)
        assert definition is not None, op
        self._random = random.Random(f"{op} {seed}")
        self._types: dict[str, DataType] = {}
        self._nodes: list[Any] = []
        self._inputs: list[str] = []
        self.feeds: dict[str, np.ndarray[Any, Any]] = {}
        attrs = dict(self._attrs(definition))
        for arg in definition.inputs:
            if arg.list_attr:
                for kind in attrs[arg.list_attr]:
                    self._add(kind)
                continue
            kind = arg.dtype if arg.dtype is not None else self._types.get(arg.type_attr or "", DataType.FLOAT)
            count = max(0, min(3, attrs.get(arg.number_attr, 1))) if arg.number_attr else 1
            for _ in range(count):
                self._add(kind, arg.is_ref)
        self._nodes.append(node(op, "op", self._inputs, **attrs))
        self.proto = wire.GraphDef(node=self._nodes)
        self.proto.versions.producer = self._random.choice((1882, 1882, 20))
        self.fetches = ["op:0"] if definition.outputs else []

    def _attrs(self, definition: opdef.OpDef) -> Iterator[tuple[str, Any]]:
        choose = self._random.choice
        counts = {arg.number_attr for arg in (*definition.inputs, *definition.outputs)}
        for attr in definition.attrs.values():
            if attr.kind == "type":
                allowed = [kind for kind in TYPES if attr.allowed is None or kind in attr.allowed]
                self._types[attr.name] = choose(allowed if allowed and self._random.random() < 0.97 else TYPES)
                yield attr.name, self._types[attr.name]
            elif attr.kind == "list(type)":
                yield attr.name, [choose(TYPES) for _ in range(choose((1, 1, 2, 0, 3)))]
            elif attr.has_default and self._random.random() < 0.4:
                continue
            elif attr.name in counts:
                yield attr.name, choose((1, 2, 2, 3, 0, -1))
            elif attr.kind == "list(int)" and self._random.random() < 0.5:
                yield attr.name, [1, *(choose((1, 2, 3)) for _ in range(choose((0, 1, 2, 3)))), 1]
            elif attr.kind.startswith("list("):
                yield attr.name, [self._attr(attr.kind[5:-1], attr.allowed) for _ in range(choose((0, 1, 2, 4, 5)))]
            else:
                yield attr.name, self._attr(attr.kind, attr.allowed)

    def _attr(self, kind: str, allowed: Any) -> Any:
        choose = self._random.choice
        if kind == "string":
            return choose(sorted(allowed)) if allowed and self._random.random() < 0.8 else choose(WORDS)
        made: dict[str, Sequence[Any]] = {
            "int": ABSURD, "float": (0.0, 1.0, 0.5, -1.0, 1e30, float("nan"), float("inf")), "bool": (True, False),
            "shape": (None, (), (2,), (None, 2), (1 << 40, 1 << 40), (0, 3), (2, 3)), "type": TYPES,
            "tensor": (np.ones(2, np.float32),), "func": (wire.NameAttrList(name="none"),)}
        return choose(made[kind])

    def _add(self, kind: DataType, is_ref: bool = False) -> None:
        """Add the node that an input comes from."""
        name, unique, choose = f"i{len(self._inputs)}", f"s{self._random.getrandbits(60)}", self._random.choice
        self._inputs.append(name)
        if is_ref and kind == DataType.STRING:
            self._nodes.append(node("FIFOQueue", name, component_types=[DataType.FLOAT], shared_name=unique))
        elif is_ref:
            self._nodes.append(node("VariableV2", name, dtype=kind, shape=choose(((2,), (2, 3), ())),
                                    shared_name=unique))
        elif kind == DataType.RESOURCE:
            self._nodes.append(node("VarHandleOp", name, dtype=DataType.FLOAT, shape=(2,), shared_name=unique))
        elif kind == DataType.VARIANT:
            self._add_variant(name)
        else:
            value = self._value(kind)
            if self._random.random() < 0.3 and value.dtype != object:
                self._nodes.append(const(name, value))
            else:
                self._nodes.append(node("Placeholder", name, dtype=kind))
                self.feeds[f"{name}:0"] = value

    def _add_variant(self, name: str) -> None:
        choice = self._random.choice(("list", "dataset", "optional"))
        if choice == "list":
            self._nodes += [const(f"{name}/shape", np.int32(-1)), const(f"{name}/limit", np.int32(2)),
                            node("EmptyTensorList", name, [f"{name}/shape", f"{name}/limit"],
                                 element_dtype=DataType.FLOAT, shape_type=DataType.INT32)]
        elif choice == "dataset":
            bounds = {f"{name}/start": 0, f"{name}/stop": 5, f"{name}/step": 1}
            self._nodes += [*(const(label, np.int64(value)) for label, value in bounds.items()),
                            node("RangeDataset", name, list(bounds), output_types=[DataType.INT64],
                                 output_shapes=[()])]
        else:
            self._nodes.append(node("OptionalNone", name))

    def _value(self, kind: DataType) -> np.ndarray[Any, Any]:
        """Return a small array: likely sizes and indices, absurd numbers, or numbers that are none."""
        choose, dtype = self._random.choice, to_numpy(kind)
        shape = tuple(choose((0, 1, 1, 2, 2, 3, 4, 6)) for _ in range(choose((0, 0, 1, 1, 1, 2, 2, 3, 4, 5))))
        count = int(np.prod(shape))
        if dtype.kind == "O":
            made = np.empty(shape, object)
            made.reshape(-1)[:] = [choose(TEXTS) for _ in range(count)]
            return made
        if dtype.kind in "iu":
            limits, low = np.iinfo(dtype), 0 if dtype.kind == "u" else -1
            numbers = ABSURD if self._random.random() < 0.25 else tuple(range(low, 5))
            values = [min(max(choose(numbers), int(limits.min)), int(limits.max)) for _ in range(count)]
            return np.array(values, dtype).reshape(shape)
        if dtype.kind == "b":
            return np.array([choose((True, False)) for _ in range(count)], bool).reshape(shape)
        special = (float("nan"), float("inf"), -float("inf"), 1e30, 0.0)
        values = [choose(special) if self._random.random() < 0.05 else self._random.gauss(0, 2) for _ in range(count)]
        with np.errstate(over="ignore"):
            return np.array(values, np.float64).astype(dtype).reshape(shape)


def findings(master: Master, op: str, seed: int) -> Iterator[str]:
    """Run the graph of an op and a seed twice in a session; yield what is neither a value nor a foreseen error."""
    graph = OpGraph(op, seed)
    began = time.monotonic()
    try:
        handle, _ = master.create_session(graph.proto)
    except Error as error:
        if error.code in NO_ERROR_OF_OURS:
            yield f"the graph: {error.code} {error.message}"
        return
    except Exception as error:
        yield f"the graph: {type(error).__name__}: {error}"
        return
    session = master.session(handle)
    try:
        for _ in range(2):
            session.run(graph.feeds, graph.fetches, ["op"], wire.RunOptions(timeout_in_ms=STEP_TIMEOUT_MS))
    except Error as error:
        if error.code in NO_ERROR_OF_OURS and not any(text in error.message for text in FORESEEN):
            yield f"{error.code} {error.message}"
    except Exception as error:
        yield f"{type(error).__name__}: {error}"
    finally:
        master.close_session(handle)
    if time.monotonic() - began > HANGS_S:
        yield f"took {time.monotonic() - began:.0f} s with a timeout of {STEP_TIMEOUT_MS} ms"


def main() -> None:
    """Run graphs of every op from the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.op_target", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--cases", type=int, default=1, help="graphs of each op")
    parser.add_argument("--ops", nargs="*", help="of these ops alone")
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    ops = options.ops or sorted(set(registry.registered()) - NOT_HERE)
    found = 0
    with tempfile.TemporaryDirectory() as folder, StepRunner(4) as runner:
        master = Master(Task("local", files=FileAccess([folder])), runner=runner)
        for op in ops:
            for number in range(options.cases):
                seed = options.seed * 1000 + number
                print(f"{op} {seed}", flush=True)
                for finding in findings(master, op, seed):
                    found += 1
                    print(f"FOUND {op} {seed}: {finding}".replace("\n", " "), flush=True)
        master.close()
    print(f"{len(ops)} ops, {found} findings")


if __name__ == "__main__":
    main()
