"""Run a case through our kernels alone: bind each node, call it in order, as the executor's contract says.

This is no executor: nothing is pruned, folded or scheduled, so that a failure here is a kernel's.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from runtime._ext.variable import Variable
from runtime.devices.device import cpu_device
from runtime.dtypes import is_ref, to_numpy
from runtime.graph.node import Node, node_types, require_op
from runtime.ops import registry
from runtime.step.environment import KernelEnv, SessionState
from runtime.step.files import FileAccess
from tests.ops.case import Case, Run


def build(case: Case) -> list[Node]:
    """Return the nodes of a case, connected."""
    nodes: dict[str, Node] = {}
    for proto in case.nodes:
        definition = require_op(proto.op)
        made = Node(proto, definition, *node_types(proto, definition))
        for text in proto.input:
            if text.startswith("^"):
                made.control_inputs.append(nodes[text[1:]])
            else:
                name, _, slot = text.partition(":")
                made.inputs.append((nodes[name], int(slot or 0)))
        nodes[proto.name] = made
    return list(nodes.values())


class KernelRunner:
    """A session that calls kernels.

    Parameters
    ----------
    constants : bool
        Whether host inputs that are fed count as known when the kernels are bound.
    """

    def __init__(self, case: Case, constants: bool = False) -> None:
        self.nodes = build(case)
        self._constants = constants
        self._device = cpu_device("localhost", 0)
        self.session = SessionState(self._device, FileAccess(None))
        self._step_number = 0

    def close(self) -> None:
        """Let go of what the case has left behind."""
        self.session.close()
        self._device.resources.clear_all()

    def run(self, run: Run) -> list[np.ndarray]:
        """Run a step and return what is fetched; raises the kernel's error."""
        with np.errstate(all="ignore"):
            return self._run(run)

    def _run(self, run: Run) -> list[np.ndarray]:
        values: dict[tuple[str, int], Any] = {}
        for name, value in run.feeds.items():
            node_name, _, slot = name.partition(":")
            fed = value.view()
            fed.flags.writeable = False
            values[node_name, int(slot or 0)] = fed
        fed_nodes = {name for name, _ in values}
        needed = self._needed(run, fed_nodes)
        step: Any = None
        for node in self.nodes:
            if node.name in fed_nodes or node.name not in needed:
                continue
            kernel = registry.find(node.op)
            inputs = [values[producer.name, slot] for producer, slot in node.inputs]
            args = [value.read() if isinstance(value, Variable) and not is_ref(kind) else value
                    for value, kind in zip(inputs, node.input_types)]
            env = KernelEnv(self._device, self.session, self._no_functions)
            if self._constants:
                count = len(node.inputs)
                for index in kernel.host:
                    position = index + count if index < 0 else index
                    if position >= count:  # an op of many inputs names more than this node has
                        continue
                    if node.inputs[position][0].name in fed_nodes:
                        env.constants[position] = args[position]
            function = kernel.bind(node, env)
            if (kernel.needs_step or kernel.asynchronous) and step is None:
                step = self._new_step()
            if kernel.transfer:
                # In no loop, and with no dead input.
                result = self._wait(function, step, ["", False, *args])
            elif kernel.asynchronous:
                result = self._wait(function, step, args)
            else:
                result = function(step, *args) if kernel.needs_step else function(*args)
            self._store(values, node, result)
        if step is not None:
            step.close()
        fetched = []
        for name in run.fetches:
            node_name, _, slot = name.partition(":")
            value = values[node_name, int(slot or 0)]
            # Copied: a later step may change a variable in place.
            fetched.append(np.array(value.read() if isinstance(value, Variable) else value))
        return fetched

    def _needed(self, run: Run, fed: set[str]) -> set[str]:
        by_name = {node.name: node for node in self.nodes}
        waiting = [name.partition(":")[0] for name in run.fetches] + list(run.targets)
        needed: set[str] = set()
        while waiting:
            name = waiting.pop()
            if name in needed or name in fed:
                continue
            needed.add(name)
            waiting.extend(producer.name for producer, _ in by_name[name].inputs)
            waiting.extend(producer.name for producer in by_name[name].control_inputs)
        return needed

    def _store(self, values: dict[tuple[str, int], Any], node: Node, result: Any) -> None:
        count = len(node.output_types)
        results = [] if count == 0 else [result] if count == 1 else list(result)
        if count == 1 and isinstance(result, (list, tuple)) and len(result) == 1:
            results = [result[0]]
        assert len(results) == count, f"{node} gave {len(results)} outputs, {count} are declared"
        if count == 0:
            assert result is None or len(result) == 0, f"{node} has no outputs but gave {result!r}"
        for slot, (value, kind) in enumerate(zip(results, node.output_types)):
            if is_ref(kind):
                assert isinstance(value, Variable), f"{node}:{slot} must be a reference, it is {type(value)}"
            else:
                assert isinstance(value, (np.ndarray, np.generic)), f"{node}:{slot} is a {type(value)}, not an array"
                value = np.asarray(value)
                assert value.dtype == to_numpy(kind), f"{node}:{slot} is {value.dtype}, declared {to_numpy(kind)}"
            values[node.name, slot] = value

    def _new_step(self) -> Any:
        from runtime._ext.executor import StepContext

        self._step_number += 1
        return StepContext(self._step_number, self.session)

    @staticmethod
    def _wait(function: Any, step: Any, args: list[Any]) -> Any:
        import threading

        answered = threading.Event()
        answer: list[Any] = []

        def done(result: Any, error: BaseException | None) -> None:
            answer.extend((result, error))
            answered.set()

        function(step, done, *args)
        assert answered.wait(10.0), "the kernel did not answer in 10 s"
        assert len(answer) == 2, "the kernel answered twice"
        if answer[1] is not None:
            raise answer[1]
        return answer[0]

    @staticmethod
    def _no_functions(name: Any) -> Any:
        raise AssertionError(f"a case has no function library, so there is no {name}")
