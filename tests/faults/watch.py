"""Watching a server from outside while somebody misbehaves: another client's waits, memory, descriptors, work."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.graph.graphs import FLOAT, node, placeholder
from tests.interop.raw import connect
from tests.processes import ServerProcess

__all__ = ["LONGEST_PAUSE_S", "Vitals", "until", "vitals", "witness"]

# No client may wait longer than this for a short step because of what another one does.
LONGEST_PAUSE_S = 1.0
PAGE = os.sysconf("SC_PAGE_SIZE")
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Vitals:
    """What a server process holds.

    Attributes
    ----------
    rss : int
        Resident memory, bytes.
    descriptors : int
        Open file descriptors.
    threads : int
        Threads of the process.
    cpu_s : float
        Processor time used so far, seconds.
    """

    rss: int
    descriptors: int
    threads: int
    cpu_s: float


def vitals(server: ServerProcess) -> Vitals:
    """Read what a server process holds now."""
    root = Path("/proc") / str(server.pid)
    fields = (root / "stat").read_text().rpartition(")")[2].split()
    return Vitals(
        rss=int((root / "statm").read_text().split()[1]) * PAGE,
        descriptors=len(os.listdir(root / "fd")),
        threads=int(fields[17]),
        cpu_s=(int(fields[11]) + int(fields[12])) / TICKS_PER_S,
    )


def until(condition: Callable[[], bool], what: str, seconds: float = 15.0) -> None:
    """Wait until a condition holds; fail with `what` when it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"after {seconds} s still not: {what}"
        time.sleep(0.02)


def is_idle(server: ServerProcess, seconds: float = 0.4) -> bool:
    """Whether a server does next to nothing for a while."""
    before = vitals(server).cpu_s
    time.sleep(seconds)
    return vitals(server).cpu_s - before < 0.15 * seconds


def run_delays(server: ServerProcess) -> dict[str, int]:
    """Return how long each thread of a server has been ready to run without a processor so far, nanoseconds."""
    root = Path("/proc") / str(server.pid) / "task"
    found = {}
    for thread in os.listdir(root):
        with contextlib.suppress(FileNotFoundError):  # the thread has ended, or the kernel does not count
            found[thread] = int((root / thread / "schedstat").read_text().split()[1])
    return found


def delay_since(server: ServerProcess, before: dict[str, int]) -> float:
    """Return the longest that one thread of a server was kept from a processor since then, seconds."""
    now = run_delays(server)
    return max((now[thread] - before.get(thread, 0) for thread in now), default=0) / 1e9


@dataclass
class Waits:
    """What a second client met: the longest time a step took, how many there were, and what went wrong.

    The time that a thread of the server waited for a processor does not count: others on a busy machine took it.
    """

    longest_s: float = 0.0
    steps: int = 0
    failure: BaseException | None = None


@contextmanager
def witness(server: ServerProcess, longest_s: float = LONGEST_PAUSE_S) -> Iterator[Waits]:
    """Run short steps as another client for the time of a block; fail when one is wrong or takes too long."""
    waits = Waits()
    stop, started = threading.Event(), threading.Event()

    def work() -> None:
        try:
            with connect(server.target) as client:
                handle = client.session(placeholder("x"), node("y", "Neg", "x", T=FLOAT))
                number = 0
                while not stop.is_set():
                    number += 1
                    delays, begun = run_delays(server), time.monotonic()
                    answer = client.run(handle, ["y:0"], feed={"x:0": float(number)})
                    waited_s = time.monotonic() - begun
                    if waited_s > longest_s:
                        waited_s -= delay_since(server, delays)
                    waits.longest_s = max(waits.longest_s, waited_s)
                    assert answer == {"y:0": np.float32(-number)}
                    waits.steps += 1
                    started.set()
                    stop.wait(0.005)
                client.call("CloseSession", session_handle=handle)
        except BaseException as error:
            waits.failure = error
        finally:
            started.set()

    thread = threading.Thread(target=work, name="witness")
    thread.start()
    started.wait(30)
    waits.longest_s = 0.0  # the first step is compiled, and opens the connection
    try:
        yield waits
    finally:
        stop.set()
        thread.join(60)
    assert not thread.is_alive(), "the second client still waits for an answer"
    assert waits.failure is None, f"the second client was harmed: {waits.failure!r}\n{server.log()[-3000:]}"
    assert waits.steps > 0
    assert waits.longest_s < longest_s, f"the second client waited {waits.longest_s:.2f} s"
