"""Tasks beside Ray, Dask and a pool of processes: two workers each, one submitter, one after the other in turns.

``python -m runtime.bench.bench_tasks [--json FILE] [--rounds N] [--tasks N]``. Ours are durable: a task is on disk, or
has ended and its result is, before its submission is answered, and a result before anybody hears of it. The peers keep
everything in memory. Each turn begins when the disk has done what those before it have left behind.

- ``batches``: no-op tasks, submitted in batches; from the first submission until every result has arrived.
- ``round trip``: one task at a time, from submission to result.
- ``1 MB payloads``: tasks with a payload of a million bytes each, no two of them equal, after twenty others that do not
  count: whoever keeps memory or a file for such has it by then. These tasks end so soon that ours are stored with their
  results and without their payloads; so beside them there is what ours take when the ids are the caller's own, where
  every payload is synced before its task begins. Two floors are those of a process that does nothing else: the same
  bytes written to a file each and synced, eight files at a time, and written into one file that is there, sixteen to a
  sync.
- ``queued``: what the server's process takes of memory for each task that waits, and how long it takes to serve again.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import runtime
from runtime.bench.peers import start_ours, task_peer_python
from runtime.bench.report import environment, print_table, write_json

CLIENT = Path(__file__).parent / "clients" / "tasks_peer.py"
PEERS = ("ray", "dask", "pool")
NAMES = {"ours": "ours", "ray": "Ray", "dask": "Dask", "pool": "process pool"}
PEER_LIMIT_S = 300.0
FILES_AT_ONCE = 8
SYNCED_TOGETHER = 16
FIRST = 20
SETTLE_S = 1.0
SYNCED = "1 MB payloads, synced first"


def ours(cases: list[tuple[str, int, int]]) -> list[dict[str, Any]]:
    """Run the cases on a server and two workers of its own."""
    with tempfile.TemporaryDirectory(prefix="bench-tasks-") as folder:
        server, target = start_ours("--services", "task", "--data-dir", folder)
        workers = _start_workers(target)
        try:
            with runtime.TaskClient(target) as client:
                with client.session() as session:
                    session.gather(session.map([b"x"] * 20), timeout_s=60)
                return [_case(client, *case) for case in (*cases, (SYNCED, *cases[-1][1:]))]
        finally:
            for process in (workers, server):
                process.terminate()
            for process in (workers, server):
                process.wait(30)
                if process.stdout is not None:
                    process.stdout.close()


def _case(client: runtime.TaskClient, case: str, count: int, nbytes: int) -> dict[str, Any]:
    payloads = _payloads(count, nbytes)
    with client.session() as session:
        if case == "round trip":
            times = []
            for payload in payloads:
                start = time.perf_counter()
                session.submit(payload).result(timeout_s=60)
                times.append(time.perf_counter() - start)
            return {"case": case, "count": count, "seconds": sum(times), "median_us": statistics.median(times) * 1e6}
        if nbytes > 1:
            session.gather(session.map(payloads[:FIRST]), timeout_s=PEER_LIMIT_S)
        ids = [f"{case} {index}" for index in range(count)] if case == SYNCED else None
        start = time.perf_counter()
        found = session.gather(session.submit_all(payloads, ids=ids), timeout_s=PEER_LIMIT_S)
        seconds = time.perf_counter() - start
        assert found == [b"%d" % nbytes] * count
        return {"case": case, "count": count, "seconds": seconds}


def _payloads(count: int, nbytes: int) -> list[bytes]:
    """Return payloads that differ where there is room for that: equal ones would lie on disk once."""
    filler = random.Random(1).randbytes(nbytes)
    return [(b"%d" % index + filler)[:nbytes] for index in range(count)]


def floor(count: int, nbytes: int) -> dict[str, Any]:
    """Write as many bytes to files as the payloads have, and sync each: what no durable store does in less time."""
    payloads = _payloads(count, nbytes)
    with (tempfile.TemporaryDirectory(prefix="bench-tasks-") as folder,
          concurrent.futures.ThreadPoolExecutor(FILES_AT_ONCE) as threads):

        def write(index: int) -> None:
            with open(Path(folder) / str(index), "wb", buffering=0) as file:
                file.write(payloads[index])
                os.fsync(file.fileno())

        start = time.perf_counter()
        list(threads.map(write, range(count)))
        return {"case": "floor", "count": count, "seconds": time.perf_counter() - start}


def joint_floor(count: int, nbytes: int) -> dict[str, Any]:
    """Write as many bytes over others, in one file, and sync many at a time."""
    payloads = _payloads(count, nbytes)
    with tempfile.TemporaryFile() as file:
        for payload in payloads:
            os.write(file.fileno(), payload)
        os.fsync(file.fileno())
        start = time.perf_counter()
        for index, payload in enumerate(payloads):
            os.pwrite(file.fileno(), payload, index * nbytes)
            if index % SYNCED_TOGETHER == SYNCED_TOGETHER - 1 or index == count - 1:
                os.fdatasync(file.fileno())
        return {"case": "joint floor", "count": count, "seconds": time.perf_counter() - start}


def _settle() -> None:
    """Wait until the disk has nothing to do: files that were deleted are cleared away after the next sync."""
    os.sync()
    time.sleep(SETTLE_S)


def _start_workers(target: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "runtime.cli", "worker", "runtime.bench.task_functions:size", "--server", target,
               "--processes", "2", "--log-level", "error"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    if not process.stdout.readline().startswith("ready "):
        raise SystemExit(f"the workers did not start (status {process.wait()})")
    return process


def theirs(peer: str, cases: list[tuple[str, int, int]]) -> list[dict[str, Any]]:
    """Run the cases with a peer, in an interpreter and a process of its own."""
    spec = json.dumps({"peer": peer, "cases": cases})
    command = [task_peer_python(), str(CLIENT), spec]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PEER_LIMIT_S)
    if done.returncode:
        raise SystemExit(f"{NAMES[peer]} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def queued(count: int) -> dict[str, Any]:
    """Return memory and restart with many tasks that wait."""
    with tempfile.TemporaryDirectory(prefix="bench-tasks-") as folder:
        flags = ("--services", "task", "--data-dir", folder)
        server, target = start_ours(*flags)
        try:
            before = _rss_bytes(server.pid)
            with runtime.TaskClient(target) as client, client.session("many") as session:
                start = time.perf_counter()
                session.map([b"x"] * count)
                created_s = time.perf_counter() - start
            grown = _rss_bytes(server.pid) - before
            server.send_signal(signal.SIGKILL)
            server.wait()
            _close(server)
            start = time.perf_counter()
            server, target = start_ours(*flags)
            with runtime.TaskClient(target) as client:
                assert client.attach("many").counts() == {"SUBMITTED": count}
            again_s = time.perf_counter() - start
        finally:
            server.kill()
            server.wait()
            _close(server)
    return {"case": "queued", "count": count, "created_s": created_s, "bytes_a_task": grown / count,
            "restart_s": again_s}


def _close(process: subprocess.Popen[str]) -> None:
    if process.stdout is not None:
        process.stdout.close()


def _rss_bytes(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    parser.add_argument("--rounds", type=int, default=3, help="how often everybody has a turn")
    parser.add_argument("--tasks", type=int, default=4000, help="no-op tasks of a turn")
    parser.add_argument("--queued", type=int, default=100_000, help="tasks that wait")
    options = parser.parse_args()
    cases = [("batches", options.tasks, 1), ("round trip", 200, 1), ("1 MB payloads", 200, 1_000_000)]
    runs: dict[str, list[list[dict[str, Any]]]] = {}
    floors, joint_floors = [], []
    for _ in range(options.rounds):
        for who in ("ours", *PEERS):
            _settle()
            runs.setdefault(who, []).append(ours(cases) if who == "ours" else theirs(who, cases))
        for found, measured in ((floors, floor), (joint_floors, joint_floor)):
            _settle()
            found.append(_figure(measured(*cases[-1][1:])))
    rows = [_row(case, index, runs) for index, (case, _, _) in enumerate(cases)]
    synced = [_figure(turn[-1]) for turn in runs["ours"]]
    many = queued(options.queued)
    table = []
    for row in rows:
        unit = "us" if row["case"] == "round trip" else "tasks/s"
        who = row["servers"]
        table.append([row["case"], unit, *(who[name]["figure"] for name in ("ours", *PEERS)), row["ratio"],
                      f"{row['ratio_low']:.2f} - {row['ratio_high']:.2f}"])
    print_table("tasks on two workers; ours are durable; median of the rounds",
                ["case", "unit", *NAMES.values(), "ours/Ray's", "spread"], table)
    print(f"\n{many['count']:,} tasks that wait: created in {many['created_s']:.1f} s, "
          f"{many['bytes_a_task']:,.0f} bytes of memory each, served again {many['restart_s']:.2f} s after a kill")
    print(f"{SYNCED}: {statistics.median(synced):,.0f} tasks/s of ours")
    disk, joint = statistics.median(floors), statistics.median(joint_floors)
    print(f"1 MB files, written and synced {FILES_AT_ONCE} at a time: {disk:,.0f}/s")
    print(f"1 MB pieces of one file, {SYNCED_TOGETHER} to a sync: {joint:,.0f}/s")
    if options.json:
        found = [
            {"case": SYNCED, "servers": {"ours": {"figure": statistics.median(synced), "figures": synced}}},
            {"case": "1 MB files", "servers": {"disk": {"figure": disk, "figures": floors}}},
            {"case": "1 MB pieces", "servers": {"disk": {"figure": joint, "figures": joint_floors}}},
        ]
        write_json(options.json, {"environment": environment(), "rows": [*rows, many, *found]})


def _row(case: str, index: int, runs: dict[str, list[list[dict[str, Any]]]]) -> dict[str, Any]:
    figures = {who: [_figure(turn[index]) for turn in turns] for who, turns in runs.items()}
    ratios = [mine / ray for mine, ray in zip(figures["ours"], figures["ray"], strict=True)]
    servers = {who: {"figure": statistics.median(found), "figures": found} for who, found in figures.items()}
    return {"case": case, "servers": servers, "ratio": servers["ours"]["figure"] / servers["ray"]["figure"],
            "ratio_low": min(ratios), "ratio_high": max(ratios)}


def _figure(found: dict[str, Any]) -> float:
    return float(found["median_us"]) if "median_us" in found else found["count"] / float(found["seconds"])


if __name__ == "__main__":
    main()
