"""Sessions in this process: calls of a `Master`, with arrays in and arrays out."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime import wire
from runtime._ext.errors import FailedPrecondition
from runtime.client.transport import Array, DeviceInfo, Signature
from runtime.master.master import Master
from runtime.master.task import Task

if TYPE_CHECKING:
    from runtime.master.session import MasterSession

__all__ = ["LocalTransport"]


class LocalTransport:
    """A master of this session's own: its variables are the session's alone and end with it.

    Parameters
    ----------
    config : wire.ConfigProto
        ``device_count["CPU"]`` says how many CPU devices there are.
    """

    def __init__(self, config: Any) -> None:
        self._config = config
        self._master = Master(Task(num_cpus=config.device_count.get("CPU", 0) or 1))
        self._session: MasterSession | None = None

    @property
    def is_open(self) -> bool:
        return self._session is not None

    def _opened(self) -> MasterSession:
        if self._session is None:
            raise FailedPrecondition("the session is closed")
        return self._session

    def create(self, graph_def: Any) -> None:
        handle, _ = self._master.create_session(graph_def, self._config)
        self._session = self._master.session(handle)

    def extend(self, graph_def: Any) -> None:
        session = self._opened()
        session.extend(graph_def, session.version)

    def run(self, signature: Signature, values: Sequence[Array]) -> tuple[list[Array], bytes]:
        options = wire.RunOptions.FromString(signature.options) if signature.options else None
        feeds = dict(zip(signature.feeds, _lent(values), strict=True))
        outputs, metadata = self._opened().run(feeds, signature.fetches, signature.targets, options)
        return _owned(outputs), b"" if metadata is None else metadata.SerializeToString()

    def partial_setup(self, signature: Signature) -> str:
        return self._opened().partial_runs.setup(signature.feeds, signature.fetches, signature.targets)

    def partial_run(self, handle: str, signature: Signature, values: Sequence[Array]) -> list[Array]:
        feeds = dict(zip(signature.feeds, _lent(values), strict=True))
        return _owned(self._opened().run_partial(handle, feeds, signature.fetches))

    def make_callable(self, options: Any) -> int:
        return self._opened().callables.make(options)

    def run_callable(self, handle: int, feed_types: Sequence[int], values: Sequence[Array], timeout_s: float
                     ) -> tuple[list[Array], bytes]:
        outputs, metadata = self._opened().run_callable(handle, _lent(values))
        return _owned(outputs), b"" if metadata is None else metadata.SerializeToString()

    def release_callable(self, handle: int) -> None:
        if self._session is not None:
            self._session.callables.release(handle)

    def list_devices(self) -> list[DeviceInfo]:
        return [DeviceInfo(device.name, device.device_type, device.memory_limit, device.incarnation)
                for device in self._opened().task.devices]

    def close(self) -> None:
        self._session = None
        self._master.close()


def _lent(values: Sequence[Array]) -> list[Array]:
    """Return views: what keeps a feed beyond its step (a variable, a queue) copies what does not own its data."""
    return [value.view() for value in values]


def _owned(outputs: list[Array]) -> list[Array]:
    """Return arrays that are the caller's to change: those that the graph may keep are copied.

    An output that a kernel made for this step alone has no other reference than the list's.
    """
    for index in range(len(outputs)):
        array = outputs[index]
        if not (array.flags.owndata and array.flags.writeable and sys.getrefcount(array) <= _ALONE):
            outputs[index] = array.copy()
    return outputs


def _count_alone() -> int:
    """Return what getrefcount says, in a frame like that of `_owned`, of an array that only the list holds.

    Versions of Python count the references of a frame differently.
    """
    outputs = [np.empty(1)]
    for index in range(len(outputs)):
        array = outputs[index]
        return sys.getrefcount(array)
    raise AssertionError("the list has one entry")


_ALONE = _count_alone()
