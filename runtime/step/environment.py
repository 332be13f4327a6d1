"""What a kernel is bound to: its device, its session's state, and the functions it may call."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from runtime.devices.device import Device
from runtime.devices.resources import ResourceManager

if TYPE_CHECKING:
    from runtime._ext.executor import StepContext
    from runtime.graph.node import Node
    from runtime.step.files import FileAccess
    from runtime.step.functions import Functions
    from runtime.worker.collectives.session import SessionCollectives

__all__ = ["CompiledFunction", "GradientOf", "KernelEnv", "SessionState"]

_T = TypeVar("_T")

# One count for the whole process: the private resources of all sessions lie in the same containers of a device.
_PRIVATE_NUMBERS = itertools.count(1)


class SessionState:
    """State of one session on one device that its kernels share between steps and signatures.

    Stateful kernels are made once per session and node name, so a random op goes on where it stopped and a private
    queue is the same queue in every step.

    Attributes
    ----------
    resources : ResourceManager
        The device's, or one of its own when the session is isolated.
    files : FileAccess
        Which paths graph ops may touch.
    constants : dict of Node to ndarray
        Values of Const nodes, shared by the steps that have been compiled.
    collectives : SessionCollectives or None
        How kernels reach the other members of groups; None where there is no cluster.
    step_memory_limit : int
        What the arrays of one step, or of one call of a dataset's function, may hold at once, in bytes; 0 for no limit.
    keeps_repeated : bool
        Every node has a kernel of its own, also where another one computes the same.
    """

    def __init__(
        self,
        device: Device,
        files: FileAccess,
        resources: ResourceManager | None = None,
        step_memory_limit: int = 0,
        parent: SessionState | None = None,
    ) -> None:
        self._parent = parent
        self.device = device
        self.files = files
        self.step_memory_limit = step_memory_limit
        self.keeps_repeated = False
        self.resources = device.resources if resources is None else resources
        self.constants: dict[Node, Any] = {}
        self.functions: Functions | None = None
        self.collectives: SessionCollectives | None = None
        self._kernels: dict[tuple[str, str], Any] = {}
        self._lock = threading.Lock()
        self._private_resources: list[tuple[str, str, str]] = []

    def branch(self) -> SessionState:
        """Return a state for further instances of the session's kernels, for example the functions of an iterator.

        Random streams start anew and private resources are others; all else is shared. What is owned still ends with
        the session.
        """
        made = SessionState(self.device, self.files, self.resources, self.step_memory_limit, self)
        made.constants = self.constants
        made.collectives = self.collectives
        made.keeps_repeated = self.keeps_repeated
        return made

    def kernel_state(self, node_name: str, op: str, create: Callable[[], _T]) -> _T:
        """Return the private state of a stateful kernel, made by `create` on first use in the session."""
        key = (node_name, op)
        with self._lock:
            if key in self._kernels:
                return self._kernels[key]  # type: ignore[no-any-return]
        made = create()
        with self._lock:
            return self._kernels.setdefault(key, made)  # type: ignore[no-any-return]

    def private_name(self, node_name: str) -> str:
        """Return a name ``_N_node``, new in this process, for a resource that belongs to this session alone."""
        return f"_{next(_PRIVATE_NUMBERS)}_{node_name}"

    def step_resources(self) -> ResourceManager:
        """Return a new, empty manager for the resources of one step."""
        return ResourceManager(self.resources.default_container)

    def own(self, container: str, kind: str, name: str) -> None:
        """Note a private resource, to be deleted when the session ends."""
        if self._parent is not None:
            self._parent.own(container, kind, name)
            return
        with self._lock:
            self._private_resources.append((container, kind, name))

    def close(self) -> None:
        """Drop the kernels' state, private resources, and everything if the session is isolated."""
        with self._lock:
            private, self._private_resources = self._private_resources, []
            self._kernels.clear()
            self.constants.clear()
            self.functions = None
        for entry in private:
            self.resources.delete(*entry)
        if self.resources is not self.device.resources:
            self.resources.clear_all()


class CompiledFunction(Protocol):
    """A library function compiled for a device and session.

    Attributes
    ----------
    is_asynchronous : bool
        Whether something in it may wait; then only `start` may be used.
    is_stateful : bool
        Whether its kernels keep state between calls.
    """

    is_asynchronous: bool
    is_stateful: bool
    input_types: Sequence[int]
    output_types: Sequence[int]

    def run(self, step: StepContext, args: Sequence[Any]) -> list[Any]:
        """Run to the end in the calling thread and return the outputs."""

    def start(
        self, step: StepContext, args: Sequence[Any], done: Callable[[list[Any] | None, BaseException | None], None]
    ) -> None:
        """Run, and call `done` once with the outputs or the error, perhaps from another thread."""

    def is_bounded(self) -> bool:
        """Tell whether arguments of equal sizes make a call take equally long."""

    def instance(self, state: SessionState) -> CompiledFunction:
        """Return the same function with kernels of another state, such as a `SessionState.branch`."""


@dataclass(frozen=True)
class GradientOf:
    """Names the gradient of a function, where a function is named.

    Attributes
    ----------
    function : wire.NameAttrList
    """

    function: Any


@dataclass(slots=True)
class KernelEnv:
    """Handed to every bind function.

    Attributes
    ----------
    compile_function : callable
        ``compile_function(name_or_NameAttrList)`` returns a `CompiledFunction`; only for ops with func attrs.
    path : str
        Names of the function calls around this node, each followed by ``/``; empty in the graph itself.
    constants : dict
        Input index to array, for inputs that are known when the step is compiled.
    """

    device: Device
    session: SessionState
    compile_function: Callable[[Any], CompiledFunction]
    path: str = ""
    constants: dict[int, Any] = field(default_factory=dict)

    @property
    def xp(self) -> Any:
        """Return the array namespace of the device."""
        return self.device.xp
