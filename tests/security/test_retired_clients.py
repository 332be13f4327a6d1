"""Our own clients, asked to leave because they were idle, come back with their next call and do not notice."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import runtime
from runtime.client.fleet import FleetClient
from runtime.errors import FailedPrecondition
from tests.graph.graphs import const, graph_def
from tests.security.test_hostile_connections import native_of, until


def refused(client: FleetClient) -> bool:
    with pytest.raises(FailedPrecondition, match="malformed"):
        client.register(b"")
    return True


def test_every_client_calls_again_after_it_was_retired(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.edge.native.WATCH_INTERVAL_S", 0.05)
    with (
        runtime.Server(data_dir=tmp_path, command_providers=(), idle_timeout_s=0.3) as server,
        runtime.CommandClient(server.target, retry_s=0.0) as commands,
        runtime.TaskClient(server.target, retry_s=0.0) as tasks,
        runtime.Session(server.target, graph_def(const("c", 1.0))) as session,
        FleetClient(server.target) as fleet,
    ):
        uses: tuple[Callable[[], Any], ...] = (
            lambda: commands.submit("true"), lambda: tasks.session(), lambda: session.run("c:0") == 1.0,
            lambda: refused(fleet),
        )
        for _ in range(2):
            for use in uses:
                assert use()
            until(lambda: native_of(server).census.whole.connections == 0, "end of the idle connections")
        # And around the moment in which it happens: a call that crosses the farewell on its way is answered.
        for step in range(4):
            time.sleep(0.28 + step * 0.04)
            assert session.run("c:0") == 1.0
            assert commands.submit("true")
