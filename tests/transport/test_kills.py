"""Killed in the middle of a parcel: an end of it, or the server between; who lives on keeps nothing of it."""

from __future__ import annotations

import contextlib
import gc
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from runtime import transport
from runtime.edge import loops
from runtime.errors import Error
from runtime.transport import borrower, segments
from runtime.transport.lender import lender
from tests import peers
from tests.processes import start_server

OTHER = """
import sys
import numpy as np
from runtime import transport
what, target = sys.argv[1:]
array = np.ones(12 << 20, np.uint8)
number = 0
while True:
    share = number % 2 == 0
    if what == "send":
        transport.send({"a": array, "b": array[:1000]}, target, "k", share=share, resume_s=0.2)
    else:
        transport.receive(target, "k", share=share, resume_s=0.2)
    if number == 0:
        print("begun", flush=True)
    number += 1
"""


def until(condition: Callable[[], bool], what: Callable[[], object], timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, what()
        time.sleep(0.02)


def left_over() -> tuple[int, int, int]:
    """Return how many descriptors, mappings of segments and leases there are when what is idle is given back."""
    gc.collect()
    for number in list(lender()._waiting):
        lender().revoke(number)
    segments.pool().trim()
    for found in list(borrower._borrowers.values()):
        found.trim(0.0)
    borrower._tick()
    return (len(os.listdir("/proc/self/fd")), Path("/proc/self/maps").read_text().count("memfd:tensor-runtime"),
            lender().num_leases)


@pytest.mark.parametrize("role", ["sender", "receiver"])
def test_whoever_is_killed_leaves_nothing_to_the_others(tmp_path: Path, role: str) -> None:
    """This process is one end, and it is the other end or the server that dies."""
    rng = np.random.default_rng(len(role))
    array = np.ones(12 << 20, np.uint8)
    files = set(os.listdir("/dev/shm"))
    lender()
    loops.new_loop("auto").close()  # the first one leaves a pipe to all others
    before = left_over()
    for victim in ("server", "other", "server", "other"):
        with contextlib.ExitStack() as stack:
            server = stack.enter_context(start_server(tmp_path, "--services", "stream"))
            command = [sys.executable, "-c", OTHER, "receive" if role == "sender" else "send", server.target]
            other = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                                         text=True, env={**os.environ, "PYTHONPATH": str(peers.ROOT)}))
            stack.callback(other.kill)

            def go_on(target: str = server.target) -> None:
                with contextlib.suppress(Error):
                    while True:
                        if role == "sender":
                            transport.send({"a": array, "b": array[:1000]}, target, "k", timeout_s=20, resume_s=0.2)
                        else:
                            transport.receive(target, "k", timeout_s=20, resume_s=0.2)

            here = threading.Thread(target=go_on)
            here.start()
            assert other.stdout is not None and other.stdout.readline() == "begun\n"
            time.sleep(rng.uniform(0.0, 0.3))
            (server.process if victim == "server" else other).kill()
            if victim == "other":  # the server would let this end wait for another one
                time.sleep(0.2)
                server.process.kill()
            here.join(60)
            assert not here.is_alive()
    until(lambda: all(now <= then for now, then in zip(left_over(), before, strict=True)),
          lambda: f"descriptors, mappings, leases: {before} before, {left_over()} after")
    assert set(os.listdir("/dev/shm")) <= files
