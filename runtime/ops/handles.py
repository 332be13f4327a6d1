"""Handles of what outlives a step: how a node names a resource, what it puts out, and how others find it.

Newer ops hand on a resource tensor, older ones a reference to two strings, container and name. Both carry the resource
itself, so that nothing is looked up on the way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast

import numpy as np

from runtime._ext.errors import InvalidArgument
from runtime._ext.variable import ResourceHandle, Variable
from runtime.dtypes import DataType, is_ref

if TYPE_CHECKING:
    from runtime.graph.node import Node
    from runtime.step.environment import KernelEnv

__all__ = ["RefHandle", "finder", "handle_array", "make_handle", "resource_place"]

_T = TypeVar("_T")


class RefHandle(Variable):
    """A reference to two strings that name a resource, with the resource itself.

    Attributes
    ----------
    resource : object
    """

    resource: Any

    def __new__(cls, container: str, name: str, resource: Any) -> Self:
        """Return the reference."""
        made = cast("Self", super().__new__(cls, name, container, int(DataType.STRING), (2,)))
        made.resource = resource
        names = np.empty(2, object)
        names[:] = [container.encode(), name.encode()]
        names.flags.writeable = False
        made.value = names
        return made


def handle_array(handle: ResourceHandle) -> np.ndarray[Any, Any]:
    """Return a resource tensor: a scalar object array that holds `handle`."""
    array = np.empty((), dtype=object)
    array[()] = handle
    return array


def resource_place(node: Node, env: KernelEnv, kind: str, *, by_node_name: bool = False) -> tuple[str, str]:
    """Return container and name of the resource that a node stands for, by its attrs.

    Parameters
    ----------
    kind : str
        Kind in the resource manager.
    by_node_name : bool
        Without a shared name the node's own is used, and sessions share the resource; otherwise it is private to the
        session and ends with it.

    Raises
    ------
    InvalidArgument
        If one of the names may not be used.
    """
    session = env.session
    container = session.resources.container_of(node.attr("container").decode())
    shared: str = node.attr("shared_name").decode()
    if shared.startswith("_"):
        raise InvalidArgument(f"shared_name cannot start with '_':{shared}")
    if shared or by_node_name:
        return container, shared or node.name

    def private_name() -> str:
        made = session.private_name(node.name)
        session.own(container, kind, made)
        return made

    return container, session.kernel_state(env.path + node.name, node.op, private_name)


def make_handle(node: Node, env: KernelEnv, place: tuple[str, str], kind: str, resource: Any) -> Any:
    """Return what a node that makes a resource puts out, by the type of its output.

    Parameters
    ----------
    place : tuple of str
        Container and name.
    """
    container, name = place
    if is_ref(node.output_types[0]):
        return RefHandle(container, name, resource)
    return handle_array(ResourceHandle(env.device.name, container, name, kind, resource))


def finder(env: KernelEnv, wanted: type[_T], kind: str, what: str) -> Callable[[Any], _T]:
    """Return a function that gives the resource behind a handle of either form.

    Parameters
    ----------
    wanted : type
        What it must be.
    kind : str
        Kind in the resource manager, for a reference to strings that some other op has made.
    what : str
        For messages: ``a queue``.
    """
    resources = env.session.resources

    def find(handle: Any) -> _T:
        if isinstance(handle, Variable):
            found = getattr(handle, "resource", None)
            if found is None:
                names = handle.read()
                if names.shape != (2,):
                    raise InvalidArgument("Resource handle must have two elements, but had shape: "
                                          f"[{','.join(map(str, names.shape))}]")
                found = resources.lookup(names[0].decode("utf-8", "replace"), kind, names[1].decode("utf-8", "replace"))
        elif handle.size == 1:
            found = getattr(handle.item(), "resource", None)
        else:
            found = None
        if not isinstance(found, wanted):
            named = handle if isinstance(handle, Variable) else handle.reshape(-1)[:1].tolist()
            raise InvalidArgument(f"the handle {named!r} does not name {what}")
        return found

    return find
