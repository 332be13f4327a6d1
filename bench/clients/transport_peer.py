"""The other end of a road that is measured: takes what comes and says so, until its standard input ends.

``python -m runtime.bench.clients.transport_peer ROAD`` with ROAD one of those of `runtime.bench.bench_transport`.
Prints ``ready ADDRESS``. With `` sender`` behind the road of Arrow Flight, and the address, it is the sending end: for
each number of bytes on standard input it sends an array, and prints how many seconds that took.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import tempfile
import threading
import time
from typing import Any

from runtime.process_tuning import tune_malloc

CHUNK_BYTES = 1 << 20


def ready(address: str) -> None:
    """Say where this end is reached."""
    print(f"ready {address}", flush=True)


def serve_socket(family: socket.AddressFamily) -> None:
    """Take messages, each of a size in 8 bytes and as many bytes, into memory that is there; answer with one byte."""
    listener = socket.socket(family)
    if family == socket.AF_UNIX:
        folder = tempfile.mkdtemp()
        listener.bind(f"{folder}/socket")
    else:
        listener.bind(("127.0.0.1", 0))
    listener.listen()
    address = listener.getsockname()
    ready(address if family == socket.AF_UNIX else f"{address[0]}:{address[1]}")
    connection, _ = listener.accept()
    memory = bytearray(0)
    head = bytearray(8)
    while connection.recv_into(head, 8, socket.MSG_WAITALL) == 8:
        size = int.from_bytes(head, "little")
        if len(memory) < size:
            memory = bytearray(size)
        view = memoryview(memory)[:size]
        while view:
            view = view[connection.recv_into(view):]
        connection.sendall(b"x")
    if family == socket.AF_UNIX:
        os.unlink(address)
        os.rmdir(folder)


async def serve_grpc() -> None:
    """Answer a unary call, and one whose requests are a stream, on grpc.aio."""
    import grpc
    from grpc import aio

    server = aio.server(options=[("grpc.max_receive_message_length", -1)])

    async def whole(request: bytes, context: Any) -> bytes:
        return b"x"

    async def stream(requests: Any, context: Any) -> bytes:
        async for _ in requests:
            pass
        return b"x"

    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bench", {
        "Whole": grpc.unary_unary_rpc_method_handler(whole),
        "Stream": grpc.stream_unary_rpc_method_handler(stream)}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    ready(f"127.0.0.1:{port}")
    await server.wait_for_termination()


def serve_flight() -> None:
    """Take record batches on Arrow Flight."""
    import pyarrow.flight as flight

    class Server(flight.FlightServerBase):
        def do_put(self, context: Any, descriptor: Any, reader: Any, writer: Any) -> None:
            for _ in reader:
                pass

    server = Server("grpc://127.0.0.1:0")
    ready(f"127.0.0.1:{server.port}")
    server.serve()


def send_by_flight(address: str) -> None:
    """Send an array on Arrow Flight for each number of bytes on standard input."""
    import numpy as np
    import pyarrow as pa
    from pyarrow import flight

    array = np.empty(0, np.uint8)
    with flight.connect(f"grpc://{address}") as client:
        descriptor = flight.FlightDescriptor.for_path("x")
        for line in sys.stdin:
            if array.nbytes != int(line):
                array = np.random.default_rng(1).integers(0, 256, int(line), np.uint8)
            began = time.perf_counter()
            batch = pa.record_batch([pa.array(array)], names=["x"])
            writer, _ = client.do_put(descriptor, batch.schema)
            writer.write_batch(batch)
            writer.close()
            print(time.perf_counter() - began, flush=True)


async def receive_here(may_share: bool) -> None:
    """Be the server that parcels are sent to."""
    from runtime import config
    from runtime.edge.listener import Listener
    from runtime.transport.parcel import Receiver
    from runtime.transport.service import board_at

    listener = Listener(config.load({"listen": "127.0.0.1:0", "services": ("stream",)}, {}, user_file=False,
                                    flag_origin="argument").settings)
    await listener.start()
    board = board_at(listener.address)
    assert board is not None
    ready(listener.address)
    while True:
        await board.handle(Receiver("bench", 1 << 40, may_share=may_share), 30.0)


async def receive_from(address: str) -> None:
    """Receive what a server passes on."""
    from runtime.client.channels import Access
    from runtime.transport.calls import Way, exchange
    from runtime.transport.parcel import Receiver

    ready(address)
    way = Way.to(f"grpc://{address}", Access())
    while True:
        await exchange(Receiver("bench", 1 << 40, may_share=False), way, 30.0)


def main() -> None:
    """Serve one road."""
    road = sys.argv[1]
    if not road.startswith("flight") or "tuned" in road:
        tune_malloc()
    if road.endswith(" sender"):
        send_by_flight(sys.argv[2])
        return
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
    if road in ("tcp", "unix socket"):
        serve_socket(socket.AF_INET if road == "tcp" else socket.AF_UNIX)
        return
    if road.startswith("flight"):
        serve_flight()
        return
    work = {"grpc": serve_grpc, "stream": lambda: receive_here(False), "shared memory": lambda: receive_here(True),
            "relayed stream": lambda: receive_from(sys.argv[2])}[road]()
    if road == "grpc":
        asyncio.run(work)
        return
    from runtime.edge import loops

    with asyncio.Runner(loop_factory=lambda: loops.new_loop("auto")) as runner:
        runner.run(work)


if __name__ == "__main__":
    main()
