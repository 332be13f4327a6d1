"""A session over the tasks of a cluster."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from runtime.graph.prune import Selection
from runtime.graph.validate import check_node
from runtime.master.distributed import DistributedStep, check_supported
from runtime.master.partition import cut, task_of
from runtime.master.parts_run import Member
from runtime.master.session import MasterSession

if TYPE_CHECKING:
    from runtime.step.compile import CompiledStep

__all__ = ["ClusterSession", "RemoteDevice"]


class RemoteDevice:
    """A device of another task.

    Attributes
    ----------
    name : str
        By the name that it has in the session.
    attributes : wire.DeviceAttributes
        With that name.
    """

    def __init__(self, name: str, attributes: Any) -> None:
        self.name = name
        self.attributes = attributes
        self.attributes.name = name


class ClusterSession(MasterSession):
    """A session whose nodes may lie on several tasks; a step that uses one of them alone runs as in any session.

    Parameters
    ----------
    *args, **options
        See `MasterSession`.
    devices : sequence of RemoteDevice
        Of the other tasks.

    Attributes
    ----------
    members : dict of str to Member
        By task name; filled by whoever opens the session on the tasks.
    """

    def __init__(self, *args: Any, devices: Sequence[RemoteDevice], **options: Any) -> None:
        self.remote_devices = tuple(devices)
        self.members: dict[str, Member] = {}
        self._numbers = itertools.count()
        super().__init__(*args, **options)

    def placeable_devices(self) -> list[tuple[str, Callable[[str], bool]]]:
        """Return the devices that nodes may be placed on."""
        return [*super().placeable_devices(), *((device.name, _runs_everything) for device in self.remote_devices)]

    @property
    def other_tasks(self) -> tuple[str, ...]:
        """Return the names of the tasks that the session uses besides this one."""
        return tuple(task for task in list(self.members) if task != self.task.name)

    @property
    def incarnations(self) -> Mapping[str, int]:
        """Return the incarnation of every device."""
        return {**{device.name: device.incarnation for device in self.task.devices},
                **{device.name: device.attributes.incarnation for device in self.remote_devices}}

    def compile(self, selection: Selection, *, partial: bool = False) -> tuple[Selection, CompiledStep]:
        """Compile a selection: here when it lies on this task alone, else in parts."""
        own = self.task.name
        if all(task_of(node.device) == own for node in selection.nodes):
            return super().compile(selection, partial=partial)
        for node in selection.nodes:
            check_node(node)
        check_supported(selection)
        parts = cut(selection, self.graph, self.task.devices[0], self.incarnations, self._numbers,
                    self.config.sends_bfloat16)
        step = DistributedStep(selection, parts, self.members, own)
        return selection, step  # type: ignore[return-value]


def _runs_everything(op: str) -> bool:
    """Stand for what another task's device supports: it says so itself when a graph is registered."""
    return True
