"""What the leader of a cluster's collectives keeps: members of groups, what they agree on, numbers of steps."""

from __future__ import annotations

import random
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from runtime._ext.errors import Error, Internal, InvalidArgument
from runtime.graph.device_spec import parse

__all__ = ["BROADCAST", "GATHER", "REDUCE", "Group", "GroupTable", "InstanceTable", "StepSequences"]

REDUCE, BROADCAST, GATHER = 0, 1, 2
"""TensorFlow's numbers of the kinds of collectives."""

_STEP_ID_BITS = 57
_MOST_GROUPS = 10_000
_MOST_INSTANCES = 100_000

Joined = Callable[["Group | None", "BaseException | None"], None]
Found = Callable[[int, "BaseException | None"], None]


@dataclass(frozen=True)
class Group:
    """A complete group.

    Attributes
    ----------
    key : int
    device_type : str
    members : tuple of wire.DeviceAttributes
        By rank: in the order of job, task and device.
    """

    key: int
    device_type: str
    members: tuple[Any, ...]

    @property
    def num_tasks(self) -> int:
        """Return how many tasks the members are on."""
        return len({self.task(rank) for rank in range(len(self.members))})

    def task(self, rank: int) -> str:
        """Return the name of the task of a member."""
        spec = parse(self.members[rank].name)
        assert spec is not None  # looked at when it joined
        return spec.task_name

    def rank_of(self, device: str) -> int:
        """Return the rank of a device.

        Raises
        ------
        Internal
            If it is no member.
        """
        for rank, member in enumerate(self.members):
            if member.name == device:
                return rank
        raise Internal(f"{device} is no member of group {self.key}: {', '.join(one.name for one in self.members)}")


def order_of(device: str) -> tuple[Any, ...]:
    """Return what devices are sorted by.

    Raises
    ------
    InvalidArgument
        If it is not the full name of a device.
    """
    spec = parse(device)
    if spec is None or not spec.is_full:
        raise InvalidArgument(f"{device!r} joins a group: it must be the full name of a device")
    return spec.job, spec.replica, spec.task, spec.device_type, spec.device_id


@dataclass
class _Forming:
    size: int
    device_type: str
    members: dict[str, Any] = field(default_factory=dict)
    waiting: list[Joined] = field(default_factory=list)
    done: Group | None = None


class GroupTable:
    """Groups by key, each complete when as many devices have joined as it is to have.

    A device that comes back with another incarnation, for its task was restarted, starts the group anew: the others
    join again after the step that failed with it.

    Safe from several threads; callbacks run in whichever thread completes a group.
    """

    def __init__(self) -> None:
        self._groups: OrderedDict[int, _Forming] = OrderedDict()
        self._lock = threading.Lock()

    def join(self, key: int, size: int, device_type: str, device: Any, joined: Joined) -> Callable[[], None]:
        """Let a device join; ``joined(group, error)`` is called once, when the group is complete.

        Parameters
        ----------
        device : wire.DeviceAttributes

        Returns
        -------
        callable
            Drops the callback; the device stays in the group.

        Raises
        ------
        InvalidArgument
            For a group without members, or a device without a full name.
        Internal
            If the group has another size or type, or is complete without the device.
        """
        if size < 1:
            raise InvalidArgument(f"group_size must be positive integer got {size}")
        order_of(device.name)
        with self._lock:
            found = self._groups.get(key)
            if found is None:
                while len(self._groups) >= _MOST_GROUPS:
                    _, oldest = self._groups.popitem(last=False)
                    for one in oldest.waiting:
                        one(None, Internal("the group was forgotten: there are too many"))
                found = self._groups[key] = _Forming(size, device_type)
            known = found.members.get(device.name)
            if known is not None and known.incarnation != device.incarnation:
                found.members = {} if found.done is not None else found.members
                found.done = None
            if (size, device_type) != (found.size, found.device_type) or (found.done is not None and known is None):
                raise Internal(
                    f"Device {device.name} is joining a group with size {size} and type {device_type}, but that group "
                    f"has size {found.size} and type {found.device_type} (group_key={key}, members: "
                    f"{', '.join(sorted(found.members))})")
            found.members[device.name] = device
            if found.done is None and len(found.members) == size:
                found.done = Group(key, device_type, tuple(sorted(found.members.values(),
                                                                  key=lambda one: order_of(one.name))))
            group = found.done
            if group is None:
                found.waiting.append(joined)
                return lambda: self._drop(found, joined)
            waiting, found.waiting = found.waiting, []
        for one in (*waiting, joined):
            one(group, None)
        return _nothing

    def _drop(self, group: _Forming, joined: Joined) -> None:
        with self._lock:
            if joined in group.waiting:
                group.waiting.remove(joined)

    def get(self, key: int) -> Group | None:
        """Return a group if it is complete."""
        found = self._groups.get(key)
        return None if found is None else found.done

    def waiting(self) -> list[str]:
        """Return what is missing of groups that somebody waits for."""
        with self._lock:
            return [f"{group.size - len(group.members)} of the {group.size} members of group {key} (there are: "
                    f"{', '.join(sorted(group.members))})" for key, group in self._groups.items() if group.waiting]

    def close(self, error: Error) -> None:
        """Wake everybody who waits."""
        with self._lock:
            waiting = [one for group in self._groups.values() for one in group.waiting]
            self._groups.clear()
        for one in waiting:
            one(None, error)


@dataclass
class _Instance:
    kind: int
    datatype: int
    shape: tuple[int, ...]
    step_id: int
    members: set[str] = field(default_factory=set)
    source: str = ""
    waiting: list[tuple[Group, Found]] = field(default_factory=list)


class InstanceTable:
    """What the members of a group do together, by group and instance key: that they agree, and who is the source.

    Safe from several threads.
    """

    def __init__(self) -> None:
        self._instances: OrderedDict[tuple[int, int], _Instance] = OrderedDict()
        self._lock = threading.Lock()

    def join(self, group: Group, key: int, kind: int, datatype: int, shape: tuple[int, ...], device: str,
             is_source: bool, step_id: int, found: Found) -> Callable[[], None]:
        """Let a member join; ``found(source_rank, error)`` is called once: for a broadcast when all have joined.

        A member that has another shape than before, or a step with another number, begins anew.

        Returns
        -------
        callable
            Drops the callback.

        Raises
        ------
        Internal
            If the members do not agree on the type, the shape, or the source.
        """
        place = (group.key, key)
        with self._lock:
            one = self._instances.get(place)
            differs = one is not None and (kind, datatype, shape) != (one.kind, one.datatype, one.shape)
            again = one is not None and device in one.members
            if one is None or (differs and again) or (step_id != one.step_id and (differs or again)):
                waiting = [] if one is None else one.waiting
                while len(self._instances) >= _MOST_INSTANCES:
                    self._instances.popitem(last=False)
                one = self._instances[place] = _Instance(kind, datatype, shape, step_id)
            else:
                waiting = []
            problem = self._problem(one, group, key, kind, datatype, shape, device, is_source)
            if problem is None:
                one.members.add(device)
                if is_source:
                    one.source = device
                if kind != BROADCAST:
                    ready = [(group, found)]
                elif len(one.members) == len(group.members):
                    ready, one.waiting = [*one.waiting, (group, found)], []
                else:
                    one.waiting.append((group, found))
                    ready = []
        for _, other in waiting:
            other(-1, Internal(f"instance {key} of group {group.key} was begun anew by another step"))
        if problem is not None:
            raise problem
        for whose, other in ready:
            self._tell(one, whose, key, other)
        return lambda: self._drop(one, found)

    def _tell(self, one: _Instance, group: Group, key: int, found: Found) -> None:
        if one.kind != BROADCAST:
            found(-1, None)
        elif one.source:
            found(group.rank_of(one.source), None)
        else:
            found(-1, Internal(f"Instance {key} found no source for broadcast.  This could mean that there were "
                               f"group_size={len(group.members)} BcastRecvs but no BcastSend."))

    def _problem(self, one: _Instance, group: Group, key: int, kind: int, datatype: int, shape: tuple[int, ...],
                 device: str, is_source: bool) -> Internal | None:
        if kind != one.kind or datatype != one.datatype:
            return Internal(f"Collective instance {key} of group {group.key}: {device} expected type {datatype} and "
                            f"kind {kind}, but another member expected type {one.datatype} and kind {one.kind}")
        if shape != one.shape:
            return Internal(
                f"Shape mismatch in the collective instance {key}. Op at device {device} expected shape {_text(shape)} "
                f"but another member in the group expected shape {_text(one.shape)}. This is likely due to different "
                "input shapes at different members of the collective op.")
        if is_source and one.source not in ("", device):
            return Internal(f"Instance {key} already has source {one.source}, received second claim from {device}")
        return None

    def _drop(self, one: _Instance, found: Found) -> None:
        with self._lock:
            one.waiting = [entry for entry in one.waiting if entry[1] is not found]

    def close(self, error: Error) -> None:
        """Wake everybody who waits."""
        with self._lock:
            waiting = [found for one in self._instances.values() for _, found in one.waiting]
            self._instances.clear()
        for found in waiting:
            found(-1, error)


class StepSequences:
    """Numbers of the next steps by graph key, so that masters of their own run a common step under one number.

    Safe from several threads.
    """

    def __init__(self) -> None:
        self._next: dict[int, int] = {}
        self._lock = threading.Lock()

    def make(self, keys: Iterable[int]) -> list[tuple[int, int]]:
        """Return (key, number) for each key, with a number made up where there is none."""
        with self._lock:
            return [(key, self._next.setdefault(key, random.getrandbits(_STEP_ID_BITS))) for key in keys]

    def get(self, key: int) -> int | None:
        """Return the number of the next step, or None when it has to be asked for."""
        return self._next.get(key)

    def set(self, key: int, number: int) -> None:
        """Note what the leader says."""
        with self._lock:
            self._next[key] = number

    def retire(self, key: int, number: int, failed: bool) -> None:
        """Go on to the next number behind one that was used; after a failure it has to be asked for again."""
        with self._lock:
            if self._next.get(key) == number and not failed:
                self._next[key] = (number + 1) & ((1 << _STEP_ID_BITS) - 1)
            else:
                self._next.pop(key, None)

    def advance(self, key: int, number: int) -> None:
        """Go on to the next number, as the leader does: others ask it for the one to use."""
        with self._lock:
            if self._next.get(key) == number:
                self._next[key] = (number + 1) & ((1 << _STEP_ID_BITS) - 1)


def _text(shape: tuple[int, ...]) -> str:
    return "[" + ",".join(map(str, shape)) + "]"


def _nothing() -> None:
    pass
