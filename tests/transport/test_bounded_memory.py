"""What a server holds of what passes through it: next to nothing, however much it is and however slowly it is taken."""

from __future__ import annotations

import asyncio
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime._ext.http2_call import Method
from runtime._ext.http2_client_stream import start_stream
from runtime.client.access import Access
from runtime.edge.connect import PeerConnection, _Service
from runtime.transport.calls import Way, exchange
from runtime.transport.parcel import Receiver, Sender
from tests.leaks import run_async
from tests.processes import ServerProcess, start_server

MIB = 1 << 20
IS_LARGE = "TENSOR_RUNTIME_LARGE" in os.environ
# The whole proof moves 8 GiB, and has a thousand readers.
PASSED_BYTES = 8 << 30 if IS_LARGE else 384 * MIB
PARCEL_BYTES = 64 * MIB
NUM_READERS = 1000 if IS_LARGE else 250


def memory_bytes(server: ServerProcess, what: str) -> int:
    found = re.search(rf"^{what}:\s+(\d+) kB$", Path(f"/proc/{server.pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) << 10


@pytest.mark.timeout(900)
def test_what_passes_through_a_server_does_not_stay_there(tmp_path: Path) -> None:
    """The receiver takes parcel after parcel and lets each go, so that all of them fit on this machine."""
    array = np.random.default_rng(1).integers(0, 255, PARCEL_BYTES, np.uint8)

    async def pass_through(way: Way, count: int) -> None:
        for _ in range(count):
            sender, receiver = (Sender("k", {"x": array}, may_share=False),
                                Receiver("k", PARCEL_BYTES, may_share=False))
            await asyncio.gather(exchange(sender, way, 30.0), exchange(receiver, way, 30.0))
            assert receiver.result()["x"][-1] == array[-1]

    with start_server(tmp_path, "--services", "stream") as server:
        way = Way.to(server.target, Access())
        run_async(lambda: pass_through(way, 1), timeout_s=120)
        before = memory_bytes(server, "VmRSS")
        run_async(lambda: pass_through(way, PASSED_BYTES // PARCEL_BYTES), timeout_s=800)
        grown = memory_bytes(server, "VmHWM") - before
        print(f"{PASSED_BYTES >> 20} MiB passed; the server grew by {grown / MIB:.1f} MiB")
        assert grown < 128 * MIB


class SlowReader(PeerConnection):
    """A receiver that stops reading from its socket when its parcel has begun to come."""

    def connection_made(self, transport: Any) -> None:
        self.socket_transport = transport
        super().connection_made(transport)

    @classmethod
    async def at(cls, address: str, key: str) -> SlowReader:
        loop = asyncio.get_running_loop()
        host, port = address.split(":")
        service = _Service(address, False, (), None)
        _, made = await loop.create_connection(lambda: cls(service, loop), host, int(port))
        receiver = Receiver(key, 1 << 30, may_share=False)
        call = start_stream(made, Method("/runtime.v1.Parcels/Receive", True, True, None))
        await call.send(receiver.opening())
        manifest = await call.receive()
        assert manifest is not None
        standing = receiver.take(manifest)
        assert standing is not None
        await call.send(standing)
        made.socket_transport.pause_reading()
        return made


@pytest.mark.timeout(300)
def test_slow_readers_cost_a_server_little(tmp_path: Path) -> None:
    """Each has a parcel of its own, of 8 MiB, takes its first message, and does not read any more."""
    array = np.zeros(8 * MIB, np.uint8)

    async def stall(server: ServerProcess) -> int:
        way = Way.to(server.target, Access())
        senders: list[asyncio.Task[None]] = []
        readers: list[SlowReader] = []
        try:
            for number in range(NUM_READERS):
                end = Sender(f"k{number}", {"x": array}, may_share=False)
                senders.append(asyncio.create_task(exchange(end, way, 30.0)))
                readers.append(await SlowReader.at(server.address, f"k{number}"))
            held = -1
            while held != (held := memory_bytes(server, "VmRSS")):  # until nothing moves any more
                await asyncio.sleep(1.0)
            assert not any(sender.done() for sender in senders)
            return held
        finally:
            for sender in senders:
                sender.cancel()
            await asyncio.gather(*senders, return_exceptions=True)
            for reader in readers:
                reader.abort()

    with start_server(tmp_path, "--services", "stream") as server:
        before = memory_bytes(server, "VmRSS")
        after = run_async(lambda: stall(server), timeout_s=240)
        print(f"{NUM_READERS} slow readers; the server grew by {(after - before) / MIB:.1f} MiB")
        assert after - before < NUM_READERS * 64 * MIB / 1000
