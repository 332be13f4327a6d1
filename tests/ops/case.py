"""What a case is and how it is written down for both sides."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from runtime import wire
from runtime.dtypes import DataType, as_datatype, from_numpy, to_numpy
from runtime.graph.node import node_types
from runtime.ops import opdef

bf16 = ml_dtypes.bfloat16

FLOATS = (np.float16, bf16, np.float32, np.float64)
INTEGERS = (np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64)
COMPLEX = (np.complex64, np.complex128)
INDEX = (np.int32, np.int64)

CONTROL_FLOW = frozenset(("Switch", "RefSwitch", "_SwitchN", "Merge", "RefMerge", "Enter", "RefEnter", "Exit",
                          "RefExit", "NextIteration", "RefNextIteration", "LoopCond"))
"""What only an executor can run."""

PRODUCER = 1882
"""GraphDef version that TensorFlow 2.21 writes."""

RELATIVE = {
    np.dtype(np.float16): 2e-3, np.dtype(bf16): 1.6e-2, np.dtype(np.float32): 2e-6, np.dtype(np.float64): 1e-12,
    np.dtype(np.complex64): 4e-6, np.dtype(np.complex128): 1e-12,
}
"""Two units in the last place of the small types, about sixteen of the others: kernels differ in how they round."""


@dataclass(frozen=True)
class Run:
    """One call of a session: what is fed, by tensor name, what is fetched, and what else must run."""

    feeds: Mapping[str, np.ndarray]
    fetches: Sequence[str]
    targets: Sequence[str] = ()


@dataclass(frozen=True)
class Case:
    """One graph and what is run in it, in one session, one after the other.

    Attributes
    ----------
    op : str
        The op under test: names the case, and `nodes` must hold it.
    relative, absolute : float or None
        Tolerance instead of the dtype's; `absolute` is scaled by the largest finite expected magnitude, so that
        cancellation in sums does not count.
    text : bool or re.Pattern
        Whether an error's text must be the same, not only its code; a pattern matches what may differ.
    compare : callable or None
        ``compare(ours, theirs)`` takes the fetched arrays of one run instead of the usual comparison.
    producer : int
        Version of the GraphDef: old op types are refused in a new one.
    library : sequence of FunctionDef
        What func attrs of the nodes name; `function` makes them.
    """

    op: str
    name: str
    nodes: Sequence[Any]
    runs: Sequence[Run]
    relative: float | None = None
    absolute: float = 0.0
    text: bool | re.Pattern[str] = True
    compare: Any = None
    feed_types: Mapping[str, DataType] = field(default_factory=dict)
    producer: int = PRODUCER
    library: Sequence[Any] = ()

    @property
    def all_nodes(self) -> Iterator[Any]:
        """The nodes of the graph and of its functions."""
        yield from self.nodes
        for body in self.library:
            yield from body.node_def

    @property
    def needs_executor(self) -> bool:
        """Whether the case is more than kernels called in order: it has functions, or nodes that decide what runs."""
        return bool(self.library) or any(node.op in CONTROL_FLOW for node in self.nodes)

    def reached(self) -> set[str]:
        """Return the ops that its runs run in the graph itself: both servers must agree on what comes of them."""
        by_name = {node.name: node for node in self.nodes}
        found = set()
        for run in self.runs:
            fed = {name.partition(":")[0] for name in run.feeds}
            waiting, seen = [*run.fetches, *run.targets], set(fed)
            while waiting:
                name = waiting.pop().lstrip("^").partition(":")[0]
                if name not in seen:
                    seen.add(name)
                    found.add(by_name[name].op)
                    waiting += by_name[name].input
        return found


def attr(value: Any) -> Any:
    """Return an AttrValue: DataType, bool, int, float, bytes or text, shape (tuple), None (unknown shape), array, list.

    A tuple is a shape; a list holds values of one kind; `called` makes what names a function.
    """
    message = wire.AttrValue()
    if isinstance(value, wire.AttrValue):
        return value
    if isinstance(value, wire.NameAttrList):
        message.func.CopyFrom(value)
        return message
    if isinstance(value, list):
        message.list.SetInParent()
        for item in value:
            _add_to_list(message.list, item)
    elif value is None or isinstance(value, tuple):
        message.shape.CopyFrom(_shape(value))
    elif isinstance(value, np.ndarray):
        message.tensor.CopyFrom(tensor(value))
    elif isinstance(value, DataType):
        message.type = int(value)
    elif isinstance(value, (type, np.dtype)):
        message.type = int(as_datatype(value))
    elif isinstance(value, bool):
        message.b = value
    elif isinstance(value, int):
        message.i = value
    elif isinstance(value, float):
        message.f = value
    else:
        message.s = value.encode() if isinstance(value, str) else value
    return message


def _add_to_list(items: Any, value: Any) -> None:
    single = attr(value)
    which = single.WhichOneof("value")
    target = getattr(items, which)
    if which in ("shape", "tensor", "func"):
        target.add().CopyFrom(getattr(single, which))
    else:
        target.append(getattr(single, which))


def _shape(shape: tuple[int | None, ...] | None) -> Any:
    message = wire.TensorShapeProto()
    if shape is None:
        message.unknown_rank = True
    else:
        for dim in shape:
            message.dim.add().size = -1 if dim is None else dim
    return message


def tensor(array: np.ndarray, kind: DataType | None = None) -> Any:
    """Return an array as a TensorProto."""
    message = wire.TensorProto()
    message.dtype = int(from_numpy(array.dtype) if kind is None else kind)
    message.tensor_shape.CopyFrom(_shape(array.shape))
    if array.dtype.kind == "O":
        message.string_val.extend(array.reshape(-1).tolist())
    else:
        message.tensor_content = np.ascontiguousarray(array).tobytes()
    return message


def array(message: Any) -> np.ndarray:
    """Return a TensorProto, as the peer or `tensor` writes it, as an array."""
    shape = tuple(dim.size for dim in message.tensor_shape.dim)
    dtype = to_numpy(message.dtype)
    if dtype.kind == "O":
        result = np.empty(shape, object)
        result.reshape(-1)[:] = list(message.string_val)
        return result
    return np.frombuffer(message.tensor_content, dtype).reshape(shape)


def as_array(value: Any) -> np.ndarray:
    """Return an input of a case as an array: text and bytes become strings, Python numbers as numpy takes them."""
    if isinstance(value, (str, bytes)):
        value = np.array(value.encode() if isinstance(value, str) else value, object)
    result = np.asarray(value)
    if result.dtype.kind in "SU":
        flat = np.empty(result.shape, object)
        flat.reshape(-1)[:] = [item.encode() if isinstance(item, str) else item for item in result.reshape(-1).tolist()]
        return flat
    return result


def node(op: str, name: str, inputs: Sequence[str] = (), /, **attrs: Any) -> Any:
    """Return a NodeDef; attrs as `attr` takes them (`name_` for an attr called name)."""
    message = wire.NodeDef(name=name, op=op, input=list(inputs))
    for key, value in attrs.items():
        message.attr[key].CopyFrom(attr(value))
    return message


def called(name: str) -> Any:
    """Return what a func attr holds: the name of a function."""
    return wire.NameAttrList(name=name)


def function(name: str, inputs: Mapping[str, DataType], outputs: Mapping[str, tuple[str, DataType]],
             nodes: Sequence[Any] = (), control: Sequence[str] = (), stateful: bool = False) -> Any:
    """Return a FunctionDef.

    Parameters
    ----------
    inputs : mapping
        Types of the arguments, by name.
    outputs : mapping
        By name, what is returned, as ``argument`` or ``node:output:0``, and its type.
    nodes : sequence of NodeDef
        The body; inputs are written as `outputs` are.
    control : sequence of str
        Nodes that run though nothing returned needs them.
    """
    made = wire.FunctionDef()
    made.signature.name = name
    made.signature.is_stateful = stateful
    for arg, kind in inputs.items():
        made.signature.input_arg.add(name=arg, type=int(kind))
    for arg, (source, kind) in outputs.items():
        made.signature.output_arg.add(name=arg, type=int(kind))
        made.ret[arg] = source
    for label in control:
        made.signature.control_output.append(label)
        made.control_ret[label] = label
    made.node_def.extend(nodes)
    return made


def const(name: str, value: Any, *inputs: str) -> Any:
    """Return a Const node; inputs are control inputs."""
    made = as_array(value)
    return node("Const", name, inputs, dtype=from_numpy(made.dtype), value=made)


def op_case(op: str, *inputs: Any, name: str = "", relative: float | None = None, absolute: float = 0.0,
            text: bool | re.Pattern[str] = True, compare: Any = None, types: Sequence[DataType] | None = None,
            repeat: int = 1, producer: int = PRODUCER, shaped: Sequence[int] = (), **attrs: Any) -> Case:
    """Return the case of one op fed by placeholders.

    Parameters
    ----------
    *inputs : array, scalar, text or bytes
        One for each tensor of the op's inputs, in order. Type, number and type list attrs are found from them.
    types : sequence of DataType, optional
        Types of the inputs where the arrays cannot tell (quantized types).
    repeat : int
        How often the step is run.
    shaped : sequence of int
        Inputs whose placeholders tell their shapes, where TensorFlow does not take the op without.
    **attrs
        The other attrs, and those that only outputs use.
    """
    definition = opdef.lookup(op)
    assert definition is not None, op
    arrays = [as_array(value) for value in inputs]
    kinds = [from_numpy(value.dtype) for value in arrays] if types is None else list(types)
    found = _infer(definition, kinds, attrs)
    placeholders = [node("Placeholder", f"in{i}", dtype=kind, **({"shape": arrays[i].shape} if i in shaped else {}))
                    for i, kind in enumerate(kinds)]
    main = node(op, "op", [f"in{i}" for i in range(len(arrays))], **{**found, **attrs})
    _, outputs = node_types(main, definition)
    feeds = {f"in{i}:0": value for i, value in enumerate(arrays)}
    run = Run(feeds, [f"op:{i}" for i in range(len(outputs))], () if outputs else ("op",))
    shapes = ",".join(f"{kind.name.lower()}{list(value.shape)}".replace(" ", "") for kind, value in zip(kinds, arrays))
    settings = ",".join(f"{key}={value}" for key, value in attrs.items())
    return Case(op, f"{op}({'; '.join(part for part in (shapes, settings, name) if part)})", [*placeholders, main],
                [run] * repeat, relative, absolute, text, compare,
                {f"in{i}:0": kind for i, kind in enumerate(kinds)}, producer)


def _infer(definition: opdef.OpDef, kinds: Sequence[DataType], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the attrs that the types and the number of the inputs tell."""
    found: dict[str, Any] = {}
    varying = [arg for arg in definition.inputs if arg.number_attr or arg.list_attr]
    fixed = len(definition.inputs) - len(varying)
    free = len(kinds) - fixed
    position = 0
    for arg in definition.inputs:
        count = 1
        if arg in varying:
            attr_name = arg.number_attr or arg.list_attr or ""
            if attr_name in given:
                count = given[attr_name] if arg.number_attr else len(given[attr_name])
            elif attr_name in found:
                count = found[attr_name] if arg.number_attr else len(found[attr_name])
            else:
                count = free if len(varying) == 1 else free // len(varying)
        mine = kinds[position:position + count]
        position += count
        if arg.number_attr:
            found.setdefault(arg.number_attr, count)
        if arg.list_attr:
            found.setdefault(arg.list_attr, list(mine))
        if arg.type_attr and mine:
            found.setdefault(arg.type_attr, mine[0])
    assert position == len(kinds), f"{definition.name} takes {position} inputs, the case gives {len(kinds)}"
    return {key: value for key, value in found.items() if key not in given}


def graph_case(op: str, name: str, nodes: Sequence[Any], *runs: Run, relative: float | None = None,
               absolute: float = 0.0, text: bool | re.Pattern[str] = True, compare: Any = None,
               library: Sequence[Any] = ()) -> Case:
    """Return the case of a graph of several nodes; producers stand before their consumers, but in loops."""
    return Case(op, f"{op}({name})", nodes, runs, relative, absolute, text, compare, library=library)


@dataclass(frozen=True)
class Outcome:
    """What one run gave: the fetched arrays, or an error's code and text."""

    code: int
    text: str
    fetched: list[np.ndarray]


def graph_def(case: Case) -> Any:
    """Return the GraphDef of a case."""
    graph = wire.GraphDef(node=case.nodes)
    graph.versions.producer = case.producer
    graph.library.function.extend(case.library)
    return graph


def encode(case: Case) -> Iterator[bytes]:
    """Yield the frames of a case: the GraphDef, the runs as JSON, then every fed TensorProto in order."""
    yield graph_def(case).SerializeToString()
    yield json.dumps([{"feeds": list(run.feeds), "fetches": list(run.fetches), "targets": list(run.targets)}
                      for run in case.runs]).encode()
    for run in case.runs:
        for name, value in run.feeds.items():
            yield tensor(value, case.feed_types.get(name)).SerializeToString()


def write_cases(path: Path, cases: Sequence[Case]) -> None:
    """Write cases for the peer: per case the number of its frames, and each frame after its length."""
    with path.open("wb") as file:
        for case in cases:
            frames = list(encode(case))
            file.write(struct.pack("<I", len(frames)))
            for frame in frames:
                file.write(struct.pack("<I", len(frame)))
                file.write(frame)


def read_answers(path: Path) -> Iterator[list[Outcome]]:
    """Yield what the peer answered: for each case one outcome per run."""
    data = memoryview(path.read_bytes())
    position = 0
    while position < len(data):
        (count,) = struct.unpack_from("<I", data, position)
        position += 4
        frames = []
        for _ in range(count):
            (length,) = struct.unpack_from("<I", data, position)
            frames.append(bytes(data[position + 4:position + 4 + length]))
            position += 4 + length
        tensors = iter(frames[1:])
        yield [Outcome(run["code"], run["text"],
                       [array(wire.TensorProto.FromString(next(tensors))) for _ in range(run["count"])])
               for run in json.loads(frames[0])]
