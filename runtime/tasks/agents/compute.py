"""The compute part of a call: what an agent tells a worker before the worker begins."""

from __future__ import annotations

from collections.abc import AsyncIterator

from runtime import wire
from runtime.objects.value import Value
from runtime.tasks.leases import Lease

__all__ = ["Input", "compute_messages", "input_of"]

_Compute = wire.armonik.ProcessRequest.ComputeRequest
_PAYLOAD_COMPLETE = wire.armonik.ProcessRequest(
    compute=_Compute(payload=wire.armonik.DataChunk(data_complete=True))
).SerializeToString()
_DATA_COMPLETE = wire.armonik.ProcessRequest(
    compute=_Compute(data=wire.armonik.DataChunk(data_complete=True))
).SerializeToString()
_LAST_DATA = wire.armonik.ProcessRequest(
    compute=_Compute(init_data=_Compute.InitData(last_data=True))
).SerializeToString()


class Input:
    """What a task is given.

    Attributes
    ----------
    dependencies : list of (str, Value)
        In the order of the task.
    size : int
        Bytes of payload and dependencies.
    """

    __slots__ = ("dependencies", "size")

    def __init__(self, payload: Value, dependencies: list[tuple[str, Value]]) -> None:
        self.dependencies = dependencies
        self.size = payload.size + sum(value.size for _, value in dependencies)


def input_of(lease: Lease) -> Input:
    """Return the input of a task.

    Raises
    ------
    DataLoss
        A dependency is not there.
    """
    return Input(lease.task.payload, [(key, lease.dependency(key)) for key in lease.task.dependencies])


async def compute_messages(lease: Lease, given: Input, chunk_bytes: int) -> AsyncIterator[bytes]:
    """Yield the messages of the compute part.

    Raises
    ------
    DataLoss
        An object is gone, or damaged.
    """
    request = wire.armonik.ProcessRequest
    chunk = wire.armonik.DataChunk
    task = lease.task
    first = _Compute.InitRequest(
        configuration=wire.armonik.Configuration(data_chunk_max_size=chunk_bytes),
        session_id=task.session,
        task_id=task.id,
        task_options=task.options.entries,
        expected_output_keys=task.expected_keys,
    )
    if task.payload.ref is None and len(task.payload.data) <= chunk_bytes:
        first.payload.data = task.payload.data
        yield request(compute=_Compute(init_request=first)).SerializeToString()
    else:
        is_first = True
        async for piece in lease.read_payload(chunk_bytes):
            if is_first:
                is_first = False
                first.payload.data = piece
                yield request(compute=_Compute(init_request=first)).SerializeToString()
            else:
                yield request(compute=_Compute(payload=chunk(data=piece))).SerializeToString()
    yield _PAYLOAD_COMPLETE
    for key, value in given.dependencies:
        yield request(compute=_Compute(init_data=_Compute.InitData(key=key))).SerializeToString()
        if value.size == 0:
            yield request(compute=_Compute(data=chunk(data=b""))).SerializeToString()
        async for piece in lease.read(value, chunk_bytes):
            yield request(compute=_Compute(data=chunk(data=piece))).SerializeToString()
        yield _DATA_COMPLETE
    yield _LAST_DATA
