"""The collectives of a server: what it keeps as a leader and knows as a member, and what it holds for others."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from runtime._ext.errors import Cancelled, Error, FailedPrecondition, InvalidArgument
from runtime._ext.rendezvous import RendezvousTable
from runtime.graph.device_spec import parse
from runtime.worker.collectives.groups import Group, GroupTable, InstanceTable, StepSequences

if TYPE_CHECKING:
    from runtime.master.task import Task

__all__ = ["Collectives", "Offered"]

Taken = Callable[[Any, "BaseException | None"], None]


class Offered:
    """A piece that another member may have.

    Attributes
    ----------
    array : ndarray
    taken : callable
        To be called when the member has it.
    """

    __slots__ = ("array", "taken")

    def __init__(self, array: Any, taken: Callable[[], None]) -> None:
        self.array = array
        self.taken = taken


class Collectives:
    """All of them; safe from several threads.

    Parameters
    ----------
    task : Task
        The server's.

    Attributes
    ----------
    groups, instances, sequences
        As the leader keeps them; members keep their sequences in the same table.
    known_groups, known_instances : dict
        What the leader has told this member.
    """

    def __init__(self, task: Task) -> None:
        self.groups = GroupTable()
        self.instances = InstanceTable()
        self.sequences = StepSequences()
        self.known_groups: dict[int, Group] = {}
        self.known_instances: dict[tuple[int, int, str], tuple[Any, int]] = {}
        self._task = task
        self._buffers = RendezvousTable()

    def forget(self, group_key: int) -> None:
        """Ask the leader anew about a group when it is next used: a step with it has failed."""
        self.known_groups.pop(group_key, None)
        for place in [place for place in list(self.known_instances) if place[0] == group_key]:
            self.known_instances.pop(place, None)

    def offer(self, step_id: int, key: str, array: Any, taken: Callable[[], None]) -> None:
        """Leave a piece for another member.

        Raises
        ------
        Error
            If the step is over.
        """
        self._buffers.of(step_id).send(key, Offered(array, taken))

    def take(self, step_id: int, key: str, done: Taken) -> Callable[[], None]:
        """Get a piece from a member on the same task; ``done(array, error)``."""

        def arrived(offered: Offered | None, is_dead: bool, error: BaseException | None) -> None:
            if offered is None:
                done(None, error)
            else:
                done(offered.array, None)
                offered.taken()

        return self._receive(step_id, key, arrived)

    def give_out(self, step_id: int, key: str, device: str, incarnation: int,
                 done: Callable[[Offered | None, BaseException | None], None]) -> Callable[[], None]:
        """Hand over a piece to a member on another task as soon as it is there.

        Returns
        -------
        callable
            Drops the request.

        Raises
        ------
        FailedPrecondition
            If the device is one of another life.
        InvalidArgument
            If it is not here.
        Aborted
            If the step is over.
        """
        wanted = parse(device)
        for own in self._task.devices:
            spec = parse(own.name)
            if spec and wanted and (spec.device_type, spec.device_id) == (wanted.device_type, wanted.device_id):
                if incarnation and own.incarnation != incarnation:
                    raise FailedPrecondition(
                        f"RecvBuf expects a different device incarnation: {incarnation} vs. {own.incarnation}. Your "
                        f'worker job that contains the device ("{device}") was probably restarted. Check your worker '
                        "job for the reason why it was restarted.")
                break
        else:
            raise InvalidArgument(f"{device} unknown device.")
        return self._receive(step_id, key, lambda offered, is_dead, error: done(offered, error))

    def _receive(self, step_id: int, key: str, arrived: Any) -> Callable[[], None]:
        buffers = self._buffers.of(step_id)
        waiter = buffers.receive(key, arrived)

        def forget() -> None:
            if waiter is not None:
                buffers.forget(waiter)

        return forget

    def holds(self, step_id: int) -> bool:
        """Tell whether pieces of a step are here or awaited."""
        return self._buffers.known(step_id) is not None

    def clean(self, step_id: int) -> None:
        """Forget what is left of a step; steps that had no collectives are fine."""
        self._buffers.clean(step_id)

    def close(self) -> None:
        """Wake everybody who waits."""
        error: Error = Cancelled("the server is stopping")
        self.groups.close(error)
        self.instances.close(error)
        self._buffers.clean_all(error)
