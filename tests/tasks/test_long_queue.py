"""A server that was killed with 100,000 tasks in its queue serves again within seconds."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

import runtime
from tests.client.tasks.conftest import running_worker
from tests.processes import start_server

NUMBER = 100_000
# What the project promises; a quiet machine takes a tenth of it.
AGAIN_S = 5.0
TIMEOUT_S = 60.0


@pytest.mark.timeout(300)
def test_a_killed_server_serves_its_queue_again(tmp_path: Path) -> None:
    with start_server(tmp_path, "--services", "task") as server, runtime.TaskClient(server.target) as client:
        session = client.session("long")
        first = session.submit(b"echo first")
        held = session.submit(b"echo held", id="held", dependencies=["later"], priority=8)
        session.map([b"echo again"] * (NUMBER - 2))
        server.process.kill()
        server.process.wait()
    began = time.perf_counter()
    with start_server(tmp_path, "--services", "task") as server, runtime.TaskClient(server.target) as client:
        session = client.attach("long")
        assert session.counts() == {"SUBMITTED": NUMBER}
        assert time.perf_counter() - began < AGAIN_S
        with running_worker(server.target):
            assert session.handle(first.id).result(timeout_s=TIMEOUT_S) == b"first"
            session.submit(b"echo later", id="later", priority=9)
            assert session.handle(held.id).result(timeout_s=TIMEOUT_S) == b"held"
