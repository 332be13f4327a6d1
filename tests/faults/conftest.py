"""A server of its own for each module of faults, with checks that it lives on and gives everything back."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests import processes
from tests.faults.watch import Vitals, until, vitals, witness
from tests.interop.raw import Wire, connect

# What a process may have grown by after a fault that was larger than all of this.
GROWTH_BYTES = 48 << 20


@pytest.fixture(scope="module")
def fault_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[processes.ServerProcess]:
    """``tensor-runtime serve``, warmed up, that must not write a traceback nor end."""
    folder = tmp_path_factory.mktemp("faults")
    with processes.start_server(folder, "--handshake-timeout-s", "2") as process:
        with witness(process, longest_s=10.0):
            pass
        yield process
        assert process.process.poll() is None, f"the server ended\n{process.log()}"
        assert "Traceback" not in process.log(), process.log()


@pytest.fixture
def target(fault_server: processes.ServerProcess) -> Iterator[processes.ServerProcess]:
    """The server; after the test it must hold what it held before."""
    assert fault_server.process.poll() is None, f"the server has ended\n{fault_server.log()}"
    before = vitals(fault_server)
    yield fault_server
    assert fault_server.process.poll() is None, f"the server ended\n{fault_server.log()}"
    until(lambda: not grown(before, vitals(fault_server)), f"as before: {before} {vitals(fault_server)}")


def grown(before: Vitals, now: Vitals) -> bool:
    """Whether a server holds more than before."""
    return now.descriptors > before.descriptors or now.rss > before.rss + GROWTH_BYTES


@pytest.fixture
def client(target: processes.ServerProcess) -> Iterator[Wire]:
    """The client that misbehaves."""
    with connect(target.target) as made:
        yield made
