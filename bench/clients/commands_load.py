"""Many workers and submitters of the command queue in one process: ``commands_load SPEC``, printed as JSON.

They speak the protocol and run nothing: a command that a worker takes ends at once, or when its time is over. Their
calls go over this project's own HTTP/2, a connection for each worker, so that most of the machine is left to the
server; ``"client": "grpc"`` has the gRPC library in its place.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import sys
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

import grpc

from runtime import wire
from runtime.edge.limits import Account
from runtime.edge.outgoing import Outgoing
from runtime.edge.peer_access import PeerAccess
from runtime.errors import Error, Unavailable

SERVICE = "/taskqueue.TaskQueue/"
HOLD_MS = b"3000"
# Until all workers have come to rest.
SETTLE_S = 1.0
# What answers under way may hold.
ANSWER_BYTES = 256 << 20


class Client:
    """One connection.

    Parameters
    ----------
    address : str
    metadata : sequence of (bytes, bytes)
        Of every call.
    """

    def __init__(self, address: str, metadata: Sequence[tuple[bytes, bytes]] = ()) -> None:
        self._address = address
        self._loop = asyncio.get_running_loop()
        self._calls = Outgoing(self._loop, PeerAccess(metadata=tuple(metadata)), Account(ANSWER_BYTES))

    def call(self, path: str, message: bytes) -> asyncio.Future[bytes]:
        """Make a unary call."""
        future: asyncio.Future[bytes] = self._loop.create_future()

        def answered(answer: bytes | None, code: int, reason: str, trailers: object) -> None:
            if future.done():
                return
            if answer is not None:
                future.set_result(answer)
            else:
                future.set_exception((Unavailable if code == Unavailable.code else Error)(reason))

        self._calls.start(self._address, path, message, answered)
        return future

    async def close(self) -> None:
        """Cut it."""
        await self._calls.close()


class GrpcClient:
    """The same with the gRPC library."""

    def __init__(self, address: str) -> None:
        self._channel = grpc.aio.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)])
        self._methods: dict[str, Any] = {}

    async def call(self, path: str, message: bytes) -> bytes:
        """Make a unary call."""
        method = self._methods.get(path)
        if method is None:
            method = self._methods[path] = self._channel.unary_unary(path)
        answer: bytes = await method(message)
        return answer

    async def close(self) -> None:
        """Cut it."""
        await self._channel.close()


class Worker:
    """One worker, and what it has seen.

    Attributes
    ----------
    waits_s : list of float
        From each slot that got free to the command that came for it.
    seen : list of (int, float)
        Commands in the order in which they came, and when.
    ended : int
    """

    def __init__(self, address: str, name: str, concurrency: int, run_s: float) -> None:
        self._address = address
        self._name = name
        self._run_s = run_s
        self._concurrency = concurrency
        self._runs: set[asyncio.Task[None]] = set()
        self._free: deque[float] = deque()
        self.waits_s: list[float] = []
        self.seen: list[tuple[int, float]] = []
        self.ended = 0

    async def register(self) -> None:
        """Become known to the server."""
        instance = (b"x-tq-worker-instance", secrets.token_hex(8).encode())
        first = Client(self._address, (instance,))
        request = wire.taskqueue.WorkerInfo(name=self._name, concurrency=self._concurrency)
        answer = wire.taskqueue.WorkerId.FromString(
            await first.call(SERVICE + "RegisterWorker", request.SerializeToString())
        )
        self._free.extend([time.monotonic()] * self._concurrency)
        await first.close()
        self._ping = answer.SerializeToString()
        number = (b"x-tq-worker-id", str(answer.worker_id).encode())
        self._client = Client(self._address, (instance, number, (b"x-tq-ping-hold-ms", HOLD_MS)))

    async def work(self) -> None:
        """Take commands until this is cancelled."""
        while True:
            answer = wire.taskqueue.TaskListAndOther.FromString(
                await self._client.call(SERVICE + "PingAndTakeNewTasks", self._ping)
            )
            now = time.monotonic()
            for task in answer.tasks:
                self.seen.append((task.task_id, now))
                self.waits_s.append(now - self._free.popleft())
                running = asyncio.ensure_future(self._run(task.task_id))
                self._runs.add(running)
                running.add_done_callback(self._runs.discard)

    async def _run(self, number: int) -> None:
        for status in ("C", "R"):
            await self._report(number, status)
        if self._run_s:
            await asyncio.sleep(self._run_s)
        self._free.append(time.monotonic())
        await self._report(number, "S")
        self.ended += 1

    async def _report(self, number: int, status: str) -> None:
        update = wire.taskqueue.TaskStatusUpdate(task_id=number, new_status=status).SerializeToString()
        await self._client.call(SERVICE + "UpdateTaskStatus", update)

    async def close(self) -> None:
        """Leave."""
        await asyncio.gather(*self._runs)
        await self._client.close()


async def submit(spec: dict[str, Any]) -> dict[str, Any]:
    """Submit commands by some callers that each wait for one answer after the other."""
    path = spec.get("path", SERVICE + "SubmitTask")
    kind = GrpcClient if spec.get("client") == "grpc" else Client
    clients = [kind(spec["address"]) for _ in range(spec.get("connections", 1))]
    message = wire.taskqueue.TaskRequest(command=spec.get("command", "true"), container="bare").SerializeToString()
    left = spec["count"]
    times: list[float] = []
    await asyncio.gather(*(client.call(path, message) for client in clients))

    async def caller(client: Client | GrpcClient) -> None:
        nonlocal left
        while left > 0:
            left -= 1
            begin = time.monotonic()
            await client.call(path, message)
            times.append(time.monotonic() - begin)

    begin = time.monotonic()
    await asyncio.gather(*(caller(clients[place % len(clients)]) for place in range(spec["callers"])))
    seconds = time.monotonic() - begin
    for client in clients:
        await client.close()
    return {"count": len(times), "seconds": seconds, "times_s": sorted(times)[:: max(1, len(times) // 10_000)]}


async def work(spec: dict[str, Any]) -> dict[str, Any]:
    """Have workers end so many commands, or work for so many seconds; submit some meanwhile where that is asked for."""
    workers = [
        Worker(spec["address"], f"{spec['name']}{place}", spec["concurrency"], spec.get("run_s", 0.0))
        for place in range(spec["workers"])
    ]
    await asyncio.gather(*(worker.register() for worker in workers))
    working = [asyncio.ensure_future(worker.work()) for worker in workers]
    begin = time.monotonic()
    sent: dict[int, float] = {}
    if spec.get("rate"):
        await asyncio.sleep(SETTLE_S)
        sent = await _submit_steadily(spec)
    deadline = begin + spec["seconds"] if "seconds" in spec else float("inf")
    count = spec.get("count", len(sent) or float("inf"))
    while sum(worker.ended for worker in workers) < count and time.monotonic() < deadline:
        await asyncio.sleep(0.02)
        for task in working:
            if task.done():
                task.result()
    seconds = time.monotonic() - begin
    for task in working:
        task.cancel()
    await asyncio.gather(*working, return_exceptions=True)
    await asyncio.gather(*(worker.close() for worker in workers))
    seen = sorted((when, number) for worker in workers for number, when in worker.seen)
    return {
        "ended": sum(worker.ended for worker in workers), "seconds": seconds,
        "each": [worker.ended for worker in workers],
        "waits_s": sorted(wait for worker in workers for wait in worker.waits_s[spec["concurrency"]:]),
        "latencies_s": sorted(when - sent[number] for when, number in seen if number in sent),
        "places_late": _most_late([number for _, number in seen]),
    }


async def _submit_steadily(spec: dict[str, Any]) -> dict[int, float]:
    """Submit so many commands a second; return when each was sent."""
    client = Client(spec["address"])
    message = wire.taskqueue.TaskRequest(command="true", container="bare").SerializeToString()
    sent: dict[int, float] = {}

    async def one() -> None:
        begin = time.monotonic()
        answer = await client.call(SERVICE + "SubmitTask", message)
        sent[wire.taskqueue.TaskResponse.FromString(answer).task_id] = begin

    calls = []
    begin = time.monotonic()
    for place in range(spec["submits"]):
        await asyncio.sleep(max(0.0, begin + place / spec["rate"] - time.monotonic()))
        calls.append(asyncio.ensure_future(one()))
    await asyncio.gather(*calls)
    await client.close()
    return sent


def _most_late(order: list[int]) -> int:
    """Return how many places behind its own the most unlucky command came; ids are in the order of submission."""
    ranks = {number: rank for rank, number in enumerate(sorted(order))}
    return max((place - ranks[number] for place, number in enumerate(order)), default=0)


def main() -> None:
    """Do what the specification says."""
    spec = json.loads(sys.argv[1])
    print(json.dumps(asyncio.run({"submit": submit, "work": work}[spec["role"]](spec))))


if __name__ == "__main__":
    main()
