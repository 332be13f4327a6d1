"""The command queue with 200 workers and 100,000 commands on one server, and shell commands beside Ray and Dask.

``python -m runtime.bench.bench_commands [--json FILE] [--queued N] [--workers N] [--commands N] [--rounds N]``. The
workers of the load speak the protocol and run nothing, many in one process; a few real agents run commands at the end.
Everything is durable: an answer leaves when its change is on disk, so the time that the disk takes is shown, too.

- ``submit[N]``: N callers, each with one call after the other; ``grpc`` has the gRPC library as their client.
- ``assign``: from the submission of a command to its arrival at one of many idle workers, a hundred a second.
- ``queued``: memory for each command that waits, and how long the server takes to serve again after a kill.
- ``drain``: the workers take all that is queued and end each command at once. The longest that a worker with a free
  slot waited, and how many places late a command came, bound what anybody starves.
- ``shell``: ``sh -c`` on two agents, on two workers of Ray and of Dask, and in a pool of processes.
"""

from __future__ import annotations

import argparse
import json
import os
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

LOAD = "runtime.bench.clients.commands_load"
PEER = Path(__file__).parent / "clients" / "tasks_peer.py"
PEERS = ("ray", "dask", "pool")
NAMES = {"ours": "ours", "ray": "Ray", "dask": "Dask", "pool": "process pool"}
LIMIT_S = 600.0
SUBMITS = 10_000
RATE, STEADY_S = 100, 10
SYNCS = 200
SHELL = "echo done"
# How many callers submit, and whose client they use.
CALLERS = ((1, "own"), (16, "own"), (128, "own"), (16, "grpc"), (128, "grpc"))


def cases() -> list[str]:
    """Return the names of all cases."""
    return [*(_submit_case(*who) for who in CALLERS), "disk", "assign", "queued", "drain", "shell batches",
            "shell round trip"]


def _submit_case(callers: int, client: str) -> str:
    return f"submit[{callers}]" + (" grpc" if client == "grpc" else "")


class Served:
    """A server of the command plane with a folder of its own."""

    def __init__(self, folder: str) -> None:
        self._flags = ("--services", "command", "--data-dir", folder)
        self.process, self.target = start_ours(*self._flags)

    @property
    def address(self) -> str:
        return self.target.removeprefix("grpc://")

    @property
    def cpu_s(self) -> float:
        """Processor time that it has used."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    @property
    def rss_bytes(self) -> int:
        """Memory that it holds."""
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def load(self, **spec: Any) -> dict[str, Any]:
        """Run a load on it; ``cpu_s`` of what comes back is the server's."""
        before = self.cpu_s
        command = [sys.executable, "-m", LOAD, json.dumps({"address": self.address, **spec})]
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
        if done.returncode:
            raise SystemExit(f"the load ended with {done.returncode}:\n{done.stderr[-2000:]}")
        return {**json.loads(done.stdout), "cpu_s": self.cpu_s - before}

    def kill_and_restart(self) -> float:
        """Kill it; return the seconds after which the next one on its data has answered."""
        self.close(signal.SIGKILL)
        begin = time.perf_counter()
        self.process, self.target = start_ours(*self._flags)
        with runtime.CommandClient(self.target) as client:
            client.list(limit=1)
        return time.perf_counter() - begin

    def close(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End it."""
        self.process.send_signal(number)
        self.process.wait(60)
        if self.process.stdout is not None:
            self.process.stdout.close()


def submits(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure submissions by more and more callers."""
    rows = []
    with tempfile.TemporaryDirectory(prefix="bench-commands-") as folder:
        server = Served(folder)
        try:
            for callers, client in CALLERS:
                turns = [
                    server.load(role="submit", callers=callers, count=min(SUBMITS, callers * 200), client=client,
                                connections=min(4, callers))
                    for _ in range(options.rounds)
                ]
                rates = [turn["count"] / turn["seconds"] for turn in turns]
                times = sorted(time for turn in turns for time in turn["times_s"])
                cpu_us = statistics.median(turn["cpu_s"] / turn["count"] * 1e6 for turn in turns)
                rows.append({"case": _submit_case(callers, client), "rate": statistics.median(rates), "rates": rates,
                             "cpu_us": cpu_us, **_percentiles(times)})
        finally:
            server.close()
    return rows


def assign(options: argparse.Namespace) -> dict[str, Any]:
    """Measure how soon an idle worker has a command."""
    with tempfile.TemporaryDirectory(prefix="bench-commands-") as folder:
        server = Served(folder)
        try:
            found = server.load(role="work", name="w", workers=options.workers, concurrency=2, rate=RATE,
                                submits=RATE * STEADY_S)
        finally:
            server.close()
    return {"case": "assign", "workers": options.workers, "cpu_us": found["cpu_s"] / found["ended"] * 1e6,
            **_percentiles(found["latencies_s"])}


def many(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure a long queue: memory, restart, and its way through many workers."""
    with tempfile.TemporaryDirectory(prefix="bench-commands-") as folder:
        server = Served(folder)
        try:
            server.load(role="submit", callers=1, count=1)
            before = server.rss_bytes
            filled = server.load(role="submit", callers=128, connections=4, count=options.queued)
            queued = {"case": "queued", "count": options.queued, "rate": filled["count"] / filled["seconds"],
                      "rss_bytes": server.rss_bytes, "bytes_a_command": (server.rss_bytes - before) / options.queued,
                      "restart_s": server.kill_and_restart()}
            found = server.load(role="work", name="w", workers=options.workers, concurrency=2, count=options.queued)
            drained = {
                "case": "drain", "workers": options.workers, "rate": found["ended"] / found["seconds"],
                "cpu_us": found["cpu_s"] / found["ended"] * 1e6, "rss_bytes": server.rss_bytes,
                "longest_ms": found["waits_s"][-1] * 1e3, "places_late": found["places_late"],
                "fewest": min(found["each"]), "most": max(found["each"]), **_percentiles(found["waits_s"]),
            }
        finally:
            server.close()
    return [queued, drained]


def shell(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure shell commands on agents and peers, one after the other in turns."""
    cases = [("batches", options.commands, 0), ("round trip", 30, 0)]
    runs: dict[str, list[list[dict[str, Any]]]] = {}
    for _ in range(options.rounds):
        runs.setdefault("ours", []).append(_agents(cases))
        for peer in PEERS:
            runs.setdefault(peer, []).append(_peer(peer, cases))
    rows = []
    for place, (case, _, _) in enumerate(cases):
        servers = {}
        for who, turns in runs.items():
            figures = [turn[place].get("median_us", turn[place]["seconds"] / turn[place]["count"] * 1e6)
                       for turn in turns]
            servers[who] = {"us": statistics.median(figures), "figures": figures}
        ratio = servers["ours"]["us"] / servers["ray"]["us"]
        rows.append({"case": f"shell {case}", "servers": servers, "ratio": ratio})
    return rows


def _agents(cases: list[tuple[str, int, int]]) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory(prefix="bench-commands-") as folder:
        server = Served(os.path.join(folder, "data"))
        agents = [
            subprocess.Popen(
                [sys.executable, "-m", "runtime.cli", "agent", server.target, "--name", f"agent{place}", "--allow-bare",
                 "--sandbox", "off", "--state-dir", os.path.join(folder, f"agent{place}")],
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )
            for place in range(2)
        ]
        try:
            with runtime.CommandClient(server.target) as client:
                client.join([client.submit("true") for _ in range(8)], timeout_s=60)
                return [_case(client, case, count) for case, count, _ in cases]
        finally:
            for process in agents:
                process.terminate()
            for process in agents:
                process.wait(60)
            server.close()


def _case(client: runtime.CommandClient, case: str, count: int) -> dict[str, Any]:
    if case == "round trip":
        times = []
        for _ in range(count):
            begin = time.perf_counter()
            number = client.submit(SHELL)
            assert [line.text for line in client.logs(number, follow=True)] == ["done"]
            times.append(time.perf_counter() - begin)
        return {"count": count, "seconds": sum(times), "median_us": statistics.median(times) * 1e6}
    begin = time.perf_counter()
    ended = client.join([client.submit(SHELL) for _ in range(count)], timeout_s=LIMIT_S)
    assert all(command.status == "S" for command in ended.values())
    return {"count": count, "seconds": time.perf_counter() - begin}


def _peer(peer: str, cases: list[tuple[str, int, int]]) -> list[dict[str, Any]]:
    spec = json.dumps({"peer": peer, "cases": cases, "shell": SHELL})
    done = subprocess.run([task_peer_python(), str(PEER), spec], capture_output=True, text=True, timeout=LIMIT_S,
                          check=False)
    if done.returncode:
        raise SystemExit(f"{NAMES[peer]} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def disk() -> dict[str, Any]:
    """Measure how long the disk takes for a page, which every answer waits for."""
    times = []
    with tempfile.TemporaryDirectory(prefix="bench-commands-") as folder, open(Path(folder) / "file", "wb") as file:
        for _ in range(SYNCS):
            file.write(bytes(4096))
            file.flush()
            begin = time.perf_counter()
            os.fdatasync(file.fileno())
            times.append(time.perf_counter() - begin)
    return {"case": "disk", **_percentiles(sorted(times))}


def _percentiles(times_s: list[float]) -> dict[str, float]:
    return {"p50_ms": statistics.median(times_s) * 1e3, "p99_ms": times_s[int(len(times_s) * 0.99)] * 1e3}


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    parser.add_argument("--rounds", type=int, default=3, help="how often submissions and shell commands have a turn")
    parser.add_argument("--queued", type=int, default=100_000, help="commands that wait")
    parser.add_argument("--workers", type=int, default=200, help="workers of the load")
    parser.add_argument("--commands", type=int, default=100, help="shell commands of a turn")
    parser.add_argument("--no-peers", action="store_true", help="leave out the shell commands")
    options = parser.parse_args()
    synced = disk()
    rows = submits(options)
    print_table(
        "commands submitted; one sync of the disk takes "
        f"{synced['p50_ms']:.1f} ms, {synced['p99_ms']:.1f} ms at worst of a hundred",
        ["callers", "commands/s", "p50 ms", "p99 ms", "server's CPU us"],
        [[row["case"], row["rate"], row["p50_ms"], row["p99_ms"], row["cpu_us"]] for row in rows],
    )
    assigned = assign(options)
    queued, drained = many(options)
    print_table(
        f"{options.workers} workers of two slots each", ["", "commands/s", "p50 ms", "p99 ms", "server's CPU us"],
        [["to an idle worker", float(RATE), assigned["p50_ms"], assigned["p99_ms"], assigned["cpu_us"]],
         ["through the queue", drained["rate"], drained["p50_ms"], drained["p99_ms"], drained["cpu_us"]]],
    )
    print(f"\n{queued['count']:,} commands: queued at {queued['rate']:,.0f}/s, "
          f"{queued['bytes_a_command']:,.0f} bytes of memory each, {queued['rss_bytes'] >> 20} MiB in all\n"
          f"({drained['rss_bytes'] >> 20} MiB after the queue), served again {queued['restart_s']:.2f} s after a kill")
    print(f"nobody starves: a free slot got a command within {drained['longest_ms']:,.0f} ms, each worker had "
          f"{drained['fewest']} to {drained['most']},\n"
          f"and no command arrived more than {drained['places_late']} places late")
    rows += [synced, assigned, queued, drained]
    if not options.no_peers:
        shells = shell(options)
        print_table(
            f"`{SHELL}` on two workers, us a command; ours are durable",
            ["case", *NAMES.values(), "ours/Ray's"],
            [[row["case"], *(row["servers"][who]["us"] for who in NAMES), row["ratio"]] for row in shells],
        )
        rows += shells
    if options.json:
        write_json(options.json, {"environment": environment(), "rows": rows})


if __name__ == "__main__":
    main()
