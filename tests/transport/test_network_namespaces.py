"""Parcels between two network namespaces, over a line that the kernel slows down and that goes down for a while.

Needs root, `ip`, `tc`, and a kernel with virtual Ethernet. Where it has netem, the line has a delay and loses packets
as well; else its rate alone is bounded, and `test_long_pipe` shows the rest.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from tests import peers

MIB = 1 << 20
BYTES = 12 * MIB
BITS_PER_S = 200_000_000
ADDRESSES = ("10.213.77.1", "10.213.77.2")
WAIT_S = 60
DOWN_S = 0.5

# Each waits until its end of the line is there. As far as they know they may share memory, which neither can reach.
_SENDER = f"""
import sys, numpy as np
from runtime import transport
print("ready", flush=True); sys.stdin.readline()
array = np.random.default_rng(1).integers(0, 255, {BYTES}, np.uint8)
told = 0
def progress(done, total):
    global told
    if done > total // 3 and not told:
        told = 1
        print("a third", flush=True)
transport.send(array, to="grpc://{ADDRESSES[1]}:7000", timeout_s={WAIT_S}, progress=progress)
print("sent", flush=True); sys.stdin.readline()
"""
_RECEIVER = f"""
import sys, numpy as np
from runtime import transport
print("ready", flush=True); sys.stdin.readline()
array = transport.receive(listen="{ADDRESSES[1]}:7000", insecure=True, timeout_s={WAIT_S})
same = (array == np.random.default_rng(1).integers(0, 255, {BYTES}, np.uint8)).all()
print("same" if same else "damaged", *transport.totals()["received"], flush=True)
"""


class Program:
    """A program in a network namespace of its own."""

    def __init__(self, text: str) -> None:
        environment = {**os.environ, "PYTHONPATH": str(peers.ROOT)}
        self.process = subprocess.Popen(["unshare", "-n", sys.executable, "-c", text], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True, env=environment)
        assert self.line() == "ready"

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def go(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def run(self, *words: str) -> str:
        """Run a command in its namespace."""
        return run("nsenter", "-t", str(self.process.pid), "-n", *words)


def run(*words: str) -> str:
    return subprocess.run(words, check=True, capture_output=True, text=True, timeout=WAIT_S).stdout


@contextlib.contextmanager
def program(text: str) -> Iterator[Program]:
    made = Program(text)
    try:
        yield made
    finally:
        made.process.kill()
        made.process.communicate()


def connect(programs: tuple[Program, Program]) -> None:
    """Lay a line between two namespaces; it goes with them."""
    names = tuple(f"trt{os.getpid() % 10**8}{end}" for end in "ab")
    run("ip", "link", "add", "name", names[0], "type", "veth", "peer", "name", names[1])
    try:
        for one, name in zip(programs, names):
            run("ip", "link", "set", "dev", name, "netns", str(one.process.pid))
    except BaseException:
        run("ip", "link", "delete", "dev", names[0])
        raise
    for one, name, address in zip(programs, names, ADDRESSES):
        one.run("ip", "link", "set", "dev", name, "name", "line")
        one.run("ip", "address", "add", f"{address}/24", "dev", "line")
        one.run("ip", "link", "set", "dev", "line", "up")


def slow_down(one: Program) -> str:
    """Bound the rate of what leaves, and have it late and lossy where the kernel can; returns by what."""
    rate = f"{BITS_PER_S}bit"
    with contextlib.suppress(subprocess.CalledProcessError):
        one.run("tc", "qdisc", "add", "dev", "line", "root", "netem", "rate", rate, "delay", "25ms", "loss", "0.01%",
                "limit", "20000")
        return "netem"
    one.run("tc", "qdisc", "add", "dev", "line", "root", "tbf", "rate", rate, "burst", "128kb", "latency", "50ms")
    return "tbf"


@pytest.fixture
def ends() -> Iterator[tuple[Program, Program]]:
    missing = [name for name in ("unshare", "nsenter", "ip", "tc") if shutil.which(name) is None]
    if missing or os.geteuid() != 0:
        pytest.skip(f"needs root, and {', '.join(missing) or 'has the programs'}")
    if subprocess.run(["unshare", "-n", "true"], capture_output=True).returncode:
        pytest.skip("this kernel, or the container, has no network namespaces for us")
    with program(_SENDER) as sender, program(_RECEIVER) as receiver:
        try:
            connect((sender, receiver))
            slow_down(sender)
        except subprocess.CalledProcessError as error:
            pytest.skip(f"the kernel cannot have such a line: {error.stderr.strip()}")
        yield sender, receiver


@pytest.mark.timeout(2 * WAIT_S)
def test_a_parcel_fills_a_slow_line_and_outlives_its_going_down(ends: tuple[Program, Program]) -> None:
    sender, receiver = ends
    for one in (receiver, sender):
        one.go()
    began = time.monotonic()
    assert sender.line() == "a third"
    sender.run("ip", "link", "set", "dev", "line", "down")
    time.sleep(DOWN_S)
    sender.run("ip", "link", "set", "dev", "line", "up")
    assert receiver.line() == "same stream"  # neither has reached the other's memory
    took = time.monotonic() - began
    assert sender.line() == "sent"
    told = sender.run("tc", "-s", "qdisc", "show", "dev", "line")
    found = re.search(r"Sent (\d+) bytes .*overlimits (\d+)", told, re.DOTALL)
    assert found is not None, told
    assert int(found[1]) > BYTES
    assert "netem" in told or int(found[2]) > 0, "it never had to wait for the line"
    assert took > DOWN_S + 0.8 * BYTES * 8 / BITS_PER_S
