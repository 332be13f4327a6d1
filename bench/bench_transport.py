"""Moving tensors from one process to another on this machine: every road of ours beside what others offer.

``python -m runtime.bench.bench_transport [--seconds S] [--sizes A,B] [--roads A;B] [--json FILE]`` sends arrays of
1 KiB to 1 GiB, as far as there is memory. A time is that of one array, from the call that sends it to the answer that
says it is there. Up to 64 MiB the roads take turns, so that a slow phase of the machine hits all of them; beyond, one
comes after the other. Roads:

- ``memcpy``: a copy within the process, to memory that is there;
- ``tcp``, ``unix socket``: blocking sockets, into memory that is there;
- ``shared memory``, ``handed over``, ``stream``, ``relayed stream``: `runtime.transport`: by a segment, by one in which
  the array lies already, in chunks straight to the receiver, in chunks by way of a server;
- ``feed, shared``, ``feed, stream``: an array fed to a step of a server that fetches one number of it;
- ``grpc.aio``, ``grpc.aio stream``: the gRPC library, one message, or messages of 1 MiB;
- ``flight``: Arrow Flight, a record batch, both ends in programs as they come; ``flight, tuned``: the allocator set
  as it is for the other roads (the extra ``bench`` has Flight; left out when it is not installed).

Both ends keep freed memory for the next array (`runtime.process_tuning.tune_malloc`), but for ``flight``.
``RecvTensor`` is measured afterwards, by a TensorFlow client whose step needs a variable of another task: two tasks of
ours, and two of TensorFlow's, in turns. ``--without-tensorflow`` leaves it out.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib.util
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from runtime.bench.clients.interleaved import percentile
from runtime.bench.report import add_ratios, environment, print_table, write_json

SIZES = tuple(1 << power for power in (10, 14, 18, 20, 22, 24, 26, 28, 30))
MIN_CALLS, MAX_CALLS, WARM_UP = 3, 2000, 2
# Up to here all roads are there at once and take turns; larger arrays have one at a time, as each keeps memory.
TOGETHER_BYTES = 64 << 20
# How many times an array's size a road may take at its worst: both ends, and what lies between them.
COPIES = 8
CHUNK_BYTES = 1 << 20
PULLS_KB = (1, 16, 256, 1 << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20)
# What the stream of chunks is set against, at 64 MiB.
BESIDE = ("flight", "flight, tuned", "grpc.aio stream", "tcp", "memcpy")

# What it returns is the time it took, when that is a float: of a road whose sender is a program of its own.
Send = Callable[[np.ndarray[Any, Any]], object]


@contextlib.contextmanager
def peer(road: str, *arguments: str) -> Iterator[str]:
    """Start the other end of a road, and end it at last."""
    command = [sys.executable, "-m", "runtime.bench.clients.transport_peer", road, *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line.startswith("ready "):
                raise SystemExit(f"the other end of '{road}' did not start")
            yield line.removeprefix("ready ").strip()
        finally:
            process.kill()


@contextlib.contextmanager
def memcpy() -> Iterator[Send]:
    targets: dict[int, np.ndarray[Any, Any]] = {}

    def send(array: np.ndarray[Any, Any]) -> None:
        if array.nbytes not in targets:
            targets.clear()
            targets[array.nbytes] = np.zeros_like(array)
        np.copyto(targets[array.nbytes], array)

    yield send


def plain_socket(road: str) -> Callable[[], Any]:
    @contextlib.contextmanager
    def opened() -> Iterator[Send]:
        with peer(road) as address:
            if road == "tcp":
                host, port = address.split(":")
                connection = socket.create_connection((host, int(port)))
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            else:
                connection = socket.socket(socket.AF_UNIX)
                connection.connect(address)

            def send(array: np.ndarray[Any, Any]) -> None:
                connection.sendall(array.nbytes.to_bytes(8, "little"))
                connection.sendall(memoryview(array))
                connection.recv(1)

            with connection:
                yield send

    return opened


def parcels(road: str) -> Callable[[], Any]:
    @contextlib.contextmanager
    def opened() -> Iterator[Send]:
        from runtime.bench.peers import start_ours
        from runtime.client.channels import Access
        from runtime.edge import loops
        from runtime.transport.calls import Way, exchange
        from runtime.transport.parcel import Sender

        with contextlib.ExitStack() as stack:
            if road == "relayed stream":
                process, target = start_ours("--services", "stream")
                stack.callback(process.wait)
                stack.callback(process.kill)
                stack.enter_context(process.stdout)  # type: ignore[arg-type]
                stack.enter_context(peer(road, target.removeprefix("grpc://")))
            else:
                target = "grpc://" + stack.enter_context(peer("stream" if road == "stream" else "shared memory"))
            runner = stack.enter_context(asyncio.Runner(loop_factory=lambda: loops.new_loop("auto")))
            way = Way.to(target, Access())

            def send(array: np.ndarray[Any, Any]) -> None:
                sender = Sender("bench", {"x": array}, may_share="stream" not in road)
                runner.run(exchange(sender, way, 30.0))
                sender.close()

            yield send

    return opened


def feeds(shares: bool) -> Callable[[], Any]:
    @contextlib.contextmanager
    def opened() -> Iterator[Send]:
        import runtime
        from runtime.bench.peers import start_ours

        process, target = start_ours()
        try:
            with runtime.Session(target) as session:
                x = session.graph.placeholder("uint8", [None], name="x")
                first = x[0]
                session.run(first, {x: [1]})
                session._transport._roads._can_share = shares
                with session.make_callable(first, [x]) as run:
                    yield run
        finally:
            process.kill()
            process.wait()
            process.stdout.close()  # type: ignore[union-attr]

    return opened


def grpc_calls(streams: bool) -> Callable[[], Any]:
    @contextlib.contextmanager
    def opened() -> Iterator[Send]:
        from grpc import aio

        with peer("grpc") as address, asyncio.Runner() as runner:
            async def connect() -> Any:
                return aio.insecure_channel(address, [("grpc.max_receive_message_length", -1)])

            channel = runner.run(connect())
            whole, stream = channel.unary_unary("/bench/Whole"), channel.stream_unary("/bench/Stream")

            async def call(array: np.ndarray[Any, Any]) -> None:
                if not streams:
                    await whole(array.tobytes())
                    return

                async def chunks() -> Any:
                    view = memoryview(array)
                    for start in range(0, array.nbytes, CHUNK_BYTES):
                        yield bytes(view[start:start + CHUNK_BYTES])

                await stream(chunks())

            yield lambda array: runner.run(call(array))
            runner.run(channel.close())

    return opened


def flight(road: str) -> Callable[[], Any]:
    @contextlib.contextmanager
    def opened() -> Iterator[Send]:
        with peer(road) as address, contextlib.ExitStack() as stack:
            command = [sys.executable, "-m", "runtime.bench.clients.transport_peer", f"{road} sender", address]
            sender = stack.enter_context(
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
            stack.callback(sender.kill)
            requests, times = sender.stdin, sender.stdout
            assert requests is not None and times is not None

            def send(array: np.ndarray[Any, Any]) -> float:
                print(array.nbytes, file=requests, flush=True)
                return float(times.readline())

            yield send

    return opened


ROADS: dict[str, Callable[[], Any]] = {
    "memcpy": memcpy,
    "shared memory": parcels("shared memory"),
    "handed over": parcels("handed over"),
    "stream": parcels("stream"),
    "relayed stream": parcels("relayed stream"),
    "feed, shared": feeds(True),
    "feed, stream": feeds(False),
    "unix socket": plain_socket("unix socket"),
    "tcp": plain_socket("tcp"),
    "grpc.aio": grpc_calls(False),
    "grpc.aio stream": grpc_calls(True),
    "flight": flight("flight"),
    "flight, tuned": flight("flight, tuned"),
}


def measure(roads: list[str], sizes: list[int], seconds: float) -> list[dict[str, Any]]:
    """Return a row for each size and road: times in microseconds, and GB/s."""
    small = [nbytes for nbytes in sizes if nbytes <= TOGETHER_BYTES]
    rows = _measure_together(roads, small, seconds) if small else []
    for nbytes in sizes:
        if nbytes > TOGETHER_BYTES:
            for road in roads:
                rows += _measure_together([road], [nbytes], seconds)
    return rows


def _measure_together(roads: list[str], sizes: list[int], seconds: float) -> list[dict[str, Any]]:
    """Measure roads in turns."""
    from runtime import transport
    from runtime.process_tuning import trim_malloc
    from runtime.transport import segments

    rows = []
    with contextlib.ExitStack() as stack:
        opened: dict[str, Send] = {road: stack.enter_context(ROADS[road]()) for road in roads}
        for nbytes in sizes:
            array = np.random.default_rng(1).integers(0, 256, nbytes, np.uint8)
            shared: Any = None
            if "handed over" in opened:
                shared = transport.empty(nbytes, np.uint8)
                shared[:] = array
            times: dict[str, list[float]] = {road: [] for road in opened}
            for _ in range(WARM_UP):  # memory is there from now on, at both ends
                for road in opened:
                    opened[road](shared if road == "handed over" else array)
            spent, rounds = 0.0, 0
            while (spent < seconds * len(opened) or rounds < MIN_CALLS) and rounds < MAX_CALLS:
                for road in opened:
                    sent = shared if road == "handed over" else array
                    began = time.perf_counter()
                    told = opened[road](sent)
                    took = told if isinstance(told, float) else time.perf_counter() - began
                    times[road].append(took)
                    spent += took
                rounds += 1
            for road, found in times.items():
                parts = [percentile(part, 0.1) * 1e6 for index in range(5) if (part := found[index::5])]
                p10 = percentile(found, 0.1)
                rows.append({"case": f"{size_name(nbytes)} {road}", "road": road, "nbytes": nbytes, "p10_us": p10 * 1e6,
                             "median_us": percentile(found, 0.5) * 1e6, "p10_parts_us": parts, "calls": len(found),
                             "gb_s": nbytes / p10 / 1e9})
            best = ", ".join(f"{road} {percentile(found, 0.1) * 1e6:,.0f}" for road, found in times.items())
            print(f"  {size_name(nbytes):>8}  us: {best}", file=sys.stderr, flush=True)
            del shared, array
            segments.pool().trim()
    trim_malloc()
    return rows


def recv_tensor(pulls_kb: list[int], seconds: float) -> list[dict[str, Any]]:
    """Return rows ``RecvTensor[SIZE]`` with ours and TensorFlow's times."""
    from runtime.bench.bench_cluster import THEIRS, Clusters
    from runtime.bench.peers import client_rows

    rows = []
    cases = [f"pull[{kilobytes}KB]" for kilobytes in pulls_kb]
    with Clusters(["ours-ours", THEIRS]) as started:
        spec = {"targets": started.targets, "pids": started.pids, "cases": cases, "seconds": seconds}
        limit_s = 120 + len(cases) * (60 + 8 * seconds)
        for kilobytes, found in zip(pulls_kb, client_rows("cluster_tf.py", spec, limit_s)):
            servers = {"ours": found["clusters"]["ours-ours"], "tensorflow": found["clusters"][THEIRS]}
            rows.append(add_ratios({"case": f"RecvTensor[{size_name(kilobytes << 10)}]", "nbytes": kilobytes << 10,
                                    "servers": servers}))
    return rows


def ratio(rows: list[dict[str, Any]], nbytes: int, ours: str, theirs: str) -> dict[str, Any] | None:
    """Return a row with the times of two roads, as the goals read it."""
    found = {row["road"]: row for row in rows if row["nbytes"] == nbytes}
    if ours not in found or theirs not in found:
        return None
    return add_ratios({"case": f"{size_name(nbytes)} {ours}, {theirs}",
                       "servers": {"ours": found[ours], "tensorflow": found[theirs]}})


def size_name(nbytes: int) -> str:
    """Return a size as people write it."""
    for power, unit in ((30, "GiB"), (20, "MiB")):
        if nbytes >= 1 << power:
            return f"{nbytes >> power} {unit}"
    return f"{nbytes >> 10} KiB"


def affordable(sizes: list[int]) -> list[int]:
    """Return the sizes for which there is memory."""
    import psutil

    return [nbytes for nbytes in sizes if nbytes * COPIES < psutil.virtual_memory().available]


def cases() -> list[str]:
    """Return the names of all rows that there may be."""
    return [*(f"{size_name(nbytes)} {road}" for nbytes in SIZES for road in ROADS),
            *(f"{size_name(64 << 20)} stream, {theirs}" for theirs in BESIDE),
            *(f"RecvTensor[{size_name(kilobytes << 10)}]" for kilobytes in PULLS_KB)]


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=0.5, help="measured time per size and road")
    parser.add_argument("--sizes", default=",".join(str(nbytes) for nbytes in SIZES), help="in bytes")
    parser.add_argument("--roads", default=";".join(ROADS), help="separated by semicolons, out of: " + "; ".join(ROADS))
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    parser.add_argument("--without-tensorflow", action="store_true", help="leave RecvTensor out")
    options = parser.parse_args()
    roads = [road for road in options.roads.split(";") if road]
    if importlib.util.find_spec("pyarrow") is None and any(road.startswith("flight") for road in roads):
        print("Arrow Flight is left out: pip install 'tensor-runtime[bench]'", file=sys.stderr)
        roads = [road for road in roads if not road.startswith("flight")]
    from runtime.process_tuning import tune_malloc

    tune_malloc()
    rows = measure(roads, affordable([int(text) for text in options.sizes.split(",")]), options.seconds)
    pairs = [found for theirs in BESIDE
             if (found := ratio(rows, 64 << 20, "stream", theirs)) is not None]
    pulls_kb = [nbytes >> 10 for nbytes in affordable([kilobytes << 10 for kilobytes in PULLS_KB])]
    pulls = [] if options.without_tensorflow else recv_tensor(pulls_kb, options.seconds * 4)
    sizes = sorted({row["nbytes"] for row in rows})
    by_road = {(row["road"], row["nbytes"]): row for row in rows}
    print_table("one array to another process; GB/s at the 10th percentile", ["road", *map(size_name, sizes)],
                [[road, *(by_road[road, nbytes]["gb_s"] if (road, nbytes) in by_road else "-" for nbytes in sizes)]
                 for road in roads])
    print_table("the same in us", ["road", *map(size_name, sizes)],
                [[road, *(by_road[road, nbytes]["p10_us"] if (road, nbytes) in by_road else "-" for nbytes in sizes)]
                 for road in roads])
    if pulls:
        print_table("a variable of another task, TensorFlow client; ms",
                    ["case", "ours p10", "TensorFlow p10", "times"],
                    [[row["case"], row["servers"]["ours"]["p10_us"] / 1e3, row["servers"]["tensorflow"]["p10_us"] / 1e3,
                      1 / row["ratio_p10"]] for row in pulls])
    if options.json:
        write_json(options.json, {"benchmark": "transport", "environment": environment(),
                                  "rows": [*rows, *pairs, *pulls]})


if __name__ == "__main__":
    main()
