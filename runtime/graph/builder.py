"""Build graphs in Python without TensorFlow: `Graph`, the home of ``runtime.Graph``.

>>> graph = Graph()
>>> x = graph.placeholder("float32", [None, 3], name="x")
>>> w = graph.variable(graph.zeros([3, 2]), name="w")
>>> y = graph.softmax(x @ w)
>>> y.name, y.dtype.label
('Softmax:0', 'float')

A graph only describes; ``runtime.Session(target, graph)`` runs it, here or on a server, and may be used while the graph
still grows. Several threads may add to one graph; each has its own open scopes.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from runtime import wire
from runtime._ext.errors import FailedPrecondition, InvalidArgument, NotFound
from runtime.dtypes import as_datatype
from runtime.graph import op_inputs
from runtime.graph.attrs import as_shape, attr_matches_default, set_attr, to_python
from runtime.graph.device_spec import parse as parse_device
from runtime.graph.node import Node, node_types, require_op
from runtime.graph.scopes import NameTable, ScopeStack, check_op_name, check_scope_name
from runtime.graph.static_shapes import infer_shapes, merge
from runtime.graph.tensor import Operation, Tensor
from runtime.graph.training_methods import TrainingMethods
from runtime.graph.values import constant_array, tensor_proto
from runtime.graph.variables import Variable
from runtime.ops.registry import Shape
from runtime.ops.shapes import format_shape

if TYPE_CHECKING:
    from runtime.ops.opdef import OpDef

__all__ = ["PRODUCER_VERSION", "Graph", "Operation", "Tensor", "Variable"]

# Graphs say which rules they were written by. 2474 is what TensorFlow 2.21 writes; servers of every version take it,
# since min_consumer stays 0.
PRODUCER_VERSION = 2474


class Graph(TrainingMethods):
    """A graph under construction.

    Parameters
    ----------
    seed : int, optional
        Seed of the graph. With one, random ops without a seed of their own repeat from session to session.

    Attributes
    ----------
    operations : list of Operation
        In the order in which they were made.
    variables : list of Variable
    """

    def __init__(self, seed: int | None = None) -> None:
        self.seed = seed
        self.operations: list[Operation] = []
        self.variables: list[Variable] = []
        self._by_name: dict[str, Operation] = {}
        self._names = NameTable()
        self._scopes = ScopeStack()
        self._lock = threading.RLock()
        self._finalized = False
        self._library = wire.FunctionDefLibrary()
        self.versions = wire.VersionDef(producer=PRODUCER_VERSION)

    # -- scopes --------------------------------------------------------------------------------------------------

    @contextmanager
    def name_scope(self, name: str | None) -> Iterator[str]:
        """Put the operations made inside under ``NAME/``.

        Parameters
        ----------
        name : str or None
            Made unique as operation names are; a name that ends with ``/`` is taken as the full prefix, so that a
            scope can be opened again; None or ``""`` leaves all scopes.

        Yields
        ------
        str
            The full prefix, ``/`` included.
        """
        if not name:
            prefix = ""
        elif name.endswith("/"):
            prefix = name
            check_scope_name(name.rstrip("/"), True)
        else:
            check_scope_name(name, not self._scopes.prefix)
            with self._lock:
                prefix = self._names.unique(self._scopes.prefix + name) + "/"
        with self._scopes.named(prefix):
            yield prefix

    def unique_name(self, name: str) -> str:
        """Return the full name that an operation called `name` would get here, and take it."""
        with self._lock:
            return self._names.unique(self._scopes.prefix + name)

    @contextmanager
    def device(self, device: str | None) -> Iterator[None]:
        """Request a device for the operations made inside, such as ``/job:worker/task:1`` or ``/cpu:0``.

        Parts that an inner request leaves open come from the outer one; None forgets the outer ones.
        """
        with self._scopes.pushed(self._scopes.devices, device or ""):
            yield

    @contextmanager
    def control_dependencies(self, inputs: Sequence[Any] | None) -> Iterator[None]:
        """Let the operations made inside run after others.

        Parameters
        ----------
        inputs : sequence of Operation, Tensor or Variable, or None
            None hides the dependencies that are open outside.
        """
        if inputs is None:
            with self._scopes.cleared_controls():
                yield
            return
        operations = tuple(self._as_operation(item) for item in inputs)
        with self._scopes.pushed(self._scopes.controls, operations):
            yield

    @contextmanager
    def colocate_with(self, item: Any) -> Iterator[None]:
        """Place the operations made inside where another operation is (attr ``_class``)."""
        with self._scopes.pushed(self._scopes.colocation, self._as_operation(item)):
            yield

    # -- operations ----------------------------------------------------------------------------------------------

    def op(self, op_type: str, *inputs: Any, name: str | None = None, **attrs: Any) -> Any:
        """Add an operation of any known type.

        Parameters
        ----------
        op_type : str
            Such as ``MatMul``.
        *inputs
            One per input argument of the op's definition: a tensor, a variable (its value, or its handle where a
            resource is needed), or a constant; a list of these where the definition has a list.
        name : str, optional
            Made unique; the op type when not given.
        **attrs
            Attrs by name; those that inputs decide need not be given.

        Returns
        -------
        Tensor, list of Tensor, tuple or Operation
            The output; a list for an output that is a list; a tuple of these for several outputs; the operation
            itself when there are none.

        Raises
        ------
        NotFound
            For an op type that is not known.
        InvalidArgument
            If inputs or attrs do not agree with the definition; the message names op, input, what was expected and
            what was given.

        Examples
        --------
        >>> graph = Graph()
        >>> graph.op("MatMul", [[1.0, 2.0]], [[3.0, 4.0]], transpose_b=True)
        <Tensor 'MatMul:0' shape=(1, 1) dtype=float>
        """
        op_def = require_op(op_type)
        with ExitStack() as stack:
            prefix = name or op_type
            if op_inputs.need_scope(op_def, inputs):  # constants made for the inputs stand under the operation's name
                prefix = stack.enter_context(self.name_scope(prefix))
            operation = self._create(op_def, inputs, attrs, prefix)
        return self._results(operation, op_def)

    def _create(self, op_def: OpDef, inputs: Sequence[Any], attrs: dict[str, Any], name: str) -> Operation:
        where = f"Op {op_def.name} (node '{name.rstrip('/')}')"
        values: dict[str, Any] = {}
        for attr_name, given in attrs.items():
            declared = op_def.attrs.get(attr_name)
            if declared is None:
                known = ", ".join(op_def.attrs) or "none"
                raise InvalidArgument(f"{where} has no attr '{attr_name}'; its attrs: {known}")
            if given is not None or declared.kind == "shape":
                values[attr_name] = to_python(given, declared, where)
        tensors = op_inputs.convert(self, op_def, inputs, values, where)
        proto = wire.NodeDef(op=op_def.name)
        for attr_name, declared in op_def.attrs.items():
            if attr_name not in values:
                if not declared.has_default:
                    raise InvalidArgument(f"{where} needs attr '{attr_name}' ({declared.kind})")
            elif not attr_matches_default(values[attr_name], declared):
                set_attr(proto.attr[attr_name], values[attr_name], declared.kind)
        return self.add_node(proto, op_def, tensors, name)

    def add_node(self, proto: Any, op_def: OpDef, inputs: Sequence[Tensor], name: str,
                 control_inputs: Sequence[Operation] | None = None) -> Operation:
        """Add a node whose attrs are set, connected to tensors of this graph.

        Parameters
        ----------
        proto : wire.NodeDef
            Kept; its name, device and inputs are written here.
        name : str
            Under the open scopes and made unique; one that ends with ``/`` is a full name, already taken.
        control_inputs : sequence of Operation, optional
            The open control dependencies when not given.
        """
        with self._lock:
            if self._finalized:
                raise FailedPrecondition(f"graph is finalized and cannot take node '{name}'")
            proto.name = name[:-1] if name.endswith("/") else self.unique_name(name)
            check_op_name(proto.name)
            if proto.name in self._by_name:
                raise InvalidArgument(f"the graph has a node '{proto.name}' already")
            controls = self._controls(inputs) if control_inputs is None else tuple(control_inputs)
            if not proto.device:
                proto.device = self._device()
            for other in self._scopes.colocation:
                proto.attr["_class"].list.s.append(b"loc:@" + other.name.encode())
            proto.input.extend(t.op.name if t.index == 0 else t.name for t in inputs)
            proto.input.extend("^" + op.name for op in controls)
            input_types, output_types = node_types(proto, op_def)
            node = Node(proto, op_def, input_types, output_types)
            node.inputs = [(tensor.op.node, tensor.index) for tensor in inputs]
            node.control_inputs = [op.node for op in controls]
            shapes = infer_shapes(node, inputs)
            operation = Operation(self, node, tuple(inputs), controls, shapes)
            self._by_name[proto.name] = operation
            self.operations.append(operation)
            return operation

    def _controls(self, inputs: Sequence[Tensor]) -> tuple[Operation, ...]:
        """Open dependencies, without those that data inputs imply already."""
        data = {tensor.op for tensor in inputs}
        found: dict[Operation, None] = {}
        for group in self._scopes.controls:
            # An operation made in an inner block that feeds this one waits for the group already.
            if not any(set(group) <= set(op.control_inputs) for op in data):
                found.update(dict.fromkeys(op for op in group if op not in data))
        return tuple(found)

    def _device(self) -> str:
        device = ""
        for request in self._scopes.devices:
            device = _merged_device(device, request) if request else ""
        return device

    def _results(self, operation: Operation, op_def: OpDef) -> Any:
        if not op_def.outputs:
            return operation
        results: list[Any] = []
        position = 0
        for arg in op_def.outputs:
            if arg.number_attr is None and arg.list_attr is None:
                results.append(operation.outputs[position])
                position += 1
            else:
                attr = operation.node.attr(arg.number_attr or arg.list_attr or "")
                count = attr if isinstance(attr, int) else len(attr)
                results.append(list(operation.outputs[position : position + count]))
                position += count
        return results[0] if len(results) == 1 else tuple(results)

    def constant(self, value: Any, dtype: Any = None, shape: Any = None, name: str = "Const") -> Tensor:
        """Add a constant.

        Parameters
        ----------
        value : array_like
        dtype : dtype, optional
            The value's own when not given (Python floats are float32, ints int32).
        shape : shape, optional
            The value is reshaped, or repeated if it has one element.
        """
        array, kind = constant_array(value, None if dtype is None else as_datatype(dtype))
        if shape is not None:
            sizes = as_shape(shape)
            if sizes is None or None in sizes:
                raise InvalidArgument(f"constant '{name}': shape {format_shape(sizes)} must be fully known")
            known = tuple(dim for dim in sizes if dim is not None)
            try:
                array = array.reshape(-1).repeat(_product(known)) if array.size == 1 else array
                array = array.reshape(known)
            except ValueError as error:
                raise InvalidArgument(f"constant '{name}': {array.size} elements do not fill shape "
                                      f"{format_shape(sizes)}") from error
        result: Tensor = self.op("Const", value=tensor_proto(array, kind), dtype=kind, name=name)
        return result

    def convert(self, value: Any, dtype: Any = None, name: str = "Const") -> Tensor:
        """Return a tensor of this graph for a tensor, a variable (its value), or anything `constant` takes.

        Raises
        ------
        InvalidArgument
            For a tensor of another graph or another type than `dtype`.
        """
        kind = None if dtype is None else as_datatype(dtype)
        return op_inputs.as_tensor(self, value, kind, name, f"conversion of '{name}'")

    def operation(self, name: str) -> Operation:
        """Return the operation of a name.

        Raises
        ------
        NotFound
            If there is none.
        """
        found = self._by_name.get(name)
        if found is None:
            raise NotFound(f"the graph has no node '{name}'")
        return found

    def tensor(self, name: str) -> Tensor:
        """Return the tensor ``NODE:INDEX``, or output 0 of ``NODE``.

        Raises
        ------
        NotFound
            If there is none.
        InvalidArgument
            If the text names no tensor.
        """
        node, colon, index = name.rpartition(":")
        if not colon:
            node, index = name, "0"
        if not index.isdigit() or node.startswith("^"):
            raise InvalidArgument(f"'{name}' is not the name of a tensor: write NODE:INDEX")
        operation = self.operation(node)
        if int(index) >= len(operation.outputs):
            raise NotFound(f"'{name}': node '{node}' (op {operation.type}) has {len(operation.outputs)} outputs")
        return operation.outputs[int(index)]

    def _as_operation(self, item: Any) -> Operation:
        if isinstance(item, Variable):
            item = item.handle
        if isinstance(item, Tensor):
            item = item.op
        if isinstance(item, str):
            item = self.operation(item)
        if not isinstance(item, Operation):
            raise InvalidArgument(f"expected an operation, a tensor, a variable or a node's name, got "
                                  f"{type(item).__name__} {item!r}")
        if item.graph is not self:
            raise InvalidArgument(f"operation '{item.name}' belongs to another graph")
        return item

    def merge_shapes(self, tensor: Tensor, shape: Any) -> Shape:
        """Return what is known of a tensor's shape together with a further shape.

        Raises
        ------
        InvalidArgument
            If they contradict each other.
        """
        return merge(tensor.shape, as_shape(shape), f"tensor '{tensor.name}'")

    # -- whole graphs --------------------------------------------------------------------------------------------

    @property
    def version(self) -> int:
        """Number of operations: grows with every one added."""
        return len(self.operations)

    def finalize(self) -> None:
        """Refuse any further operation."""
        self._finalized = True

    def locked(self) -> AbstractContextManager[Any]:
        """Return the lock that adding an operation takes, as a context manager."""
        return self._lock

    def as_graph_def(self, from_version: int = 0) -> Any:
        """Return the graph as a message.

        Parameters
        ----------
        from_version : int
            Only operations made since `version` had this value.

        Returns
        -------
        wire.GraphDef
            A copy.
        """
        with self._lock:
            graph_def = wire.GraphDef(versions=self.versions, library=self._library)
            graph_def.library.SetInParent()
            graph_def.node.extend(op.node.proto for op in self.operations[from_version:])
            return graph_def

    def import_graph_def(self, graph_def: Any, name: str = "") -> None:
        """Add the nodes of a GraphDef, as a message (of any package) or as bytes.

        Parameters
        ----------
        name : str
            Prefix for the names, without ``/``; the names stay as they are when it is empty.

        Raises
        ------
        InvalidArgument, NotFound
            If a node is not valid here, naming it. Nodes before it have been added.
        """
        data = graph_def if isinstance(graph_def, bytes) else graph_def.SerializeToString()
        message = wire.GraphDef.FromString(data)
        prefix = f"{name}/" if name else ""
        with self._lock:
            self._library.MergeFrom(message.library)
            for proto in _in_order(message.node):
                op_def = require_op(proto.op)
                data_inputs = [self.tensor(prefix + item) for item in proto.input if not item.startswith("^")]
                controls = [self.operation(prefix + item[1:]) for item in proto.input if item.startswith("^")]
                full_name = prefix + proto.name
                if full_name in self._by_name:
                    raise InvalidArgument(f"the graph has a node '{full_name}' already; give import_graph_def a name")
                del proto.input[:]
                self._names.take(full_name)
                self.add_node(proto, op_def, data_inputs, full_name + "/", controls)

    @property
    def trainable_variables(self) -> list[Variable]:
        """Variables that optimizers change."""
        return [variable for variable in self.variables if variable.trainable]

    def op_seeds(self, seed: int | None) -> tuple[int, int]:
        """Return attrs ``seed`` and ``seed2`` of a random op, by TensorFlow's rule.

        Neither the graph's seed nor the op's: 0, 0, which means unpredictable.
        """
        default_graph_seed = 87654321
        if self.seed is not None:
            pair = (self.seed, self.version if seed is None else seed)
        elif seed is not None:
            pair = (default_graph_seed, seed)
        else:
            return 0, 0
        first, second = (value % 0x7FFFFFFF for value in pair)
        return (0, 0x7FFFFFFF) if (first, second) == (0, 0) else (first, second)

    def __repr__(self) -> str:
        return f"<runtime.Graph of {len(self.operations)} operations>"


def _merged_device(outer: str, inner: str) -> str:
    """Return a device request with the parts that an inner one leaves open taken from an outer one.

    Raises
    ------
    InvalidArgument
        If the inner one is not a device name.
    """
    inside = parse_device(inner)
    if inside is None:
        raise InvalidArgument(f"'{inner}' is not a device: write /job:NAME/task:N/device:TYPE:N, any of these parts, "
                              "or /cpu:N")
    outside = parse_device(outer) or inside
    merged = {field.name: getattr(outside, field.name) if getattr(inside, field.name) is None
              else getattr(inside, field.name) for field in dataclasses.fields(inside)}
    return str(type(inside)(**merged))


def _product(sizes: Iterable[int]) -> int:
    result = 1
    for size in sizes:
        result *= size
    return result


def _in_order(nodes: Iterable[Any]) -> list[Any]:
    """Return NodeDefs with every node after its inputs.

    Raises
    ------
    InvalidArgument
        If an input is missing or nodes form a cycle: graphs under construction hold no loops.
    """
    pending = {proto.name: proto for proto in nodes}
    order: list[Any] = []
    state: dict[str, int] = {}
    for root in pending:
        stack = [root]
        while stack:
            name = stack[-1]
            if state.get(name) == 2:
                stack.pop()
                continue
            sources = [item.lstrip("^").partition(":")[0] for item in pending[name].input]
            missing = [source for source in sources if source not in pending]
            if missing:
                raise InvalidArgument(f"Node '{name}': Unknown input node '{missing[0]}'")
            waiting = [source for source in sources if state.get(source) != 2]
            if not waiting:
                state[name] = 2
                order.append(pending[name])
                stack.pop()
            elif any(state.get(source) == 1 for source in waiting):
                raise InvalidArgument(f"node '{name}' is part of a cycle; loops made of NextIteration cannot be "
                                      "imported into a graph under construction (a session takes them as a GraphDef)")
            else:
                state[name] = 1
                stack.extend(waiting)
    return order


