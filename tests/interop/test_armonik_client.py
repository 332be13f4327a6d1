"""The published ArmoniK client of the 3.14 line, in an environment of its own, drives our server and our workers."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest

import runtime
from runtime import wire
from tests.client.tasks.conftest import running_worker
from tests.peers import armonik_314_python, run_peer

SCRIPT = Path(__file__).parent / "clients" / "submitter_armonik.py"


@pytest.mark.timeout(600)  # the first run installs the package
def test_the_published_client_runs_unmodified(tmp_path: Path) -> None:
    python = armonik_314_python()
    with (
        runtime.Server(services=("task",), data_dir=tmp_path, task_check_s=0.2, grace_s=0.0) as server,
        running_worker(server.target, processes=2),
    ):
        done = run_peer(SCRIPT, server.address, str(tmp_path / "never"), python=python)
    assert done.stdout.splitlines()[-1] == "done"


def test_what_the_newer_messages_may_not_say_is_named(tmp_path: Path) -> None:
    v3 = wire.armonik_v3
    options = v3.TaskOptions(max_retries=1, priority=1)
    options.max_duration.FromSeconds(1)
    with runtime.Server(services=("task",), data_dir=tmp_path) as server, grpc.insecure_channel(
        server.address
    ) as channel:

        def told(method: str, message: object) -> str:
            call = channel.unary_unary(f"/armonik.api.grpc.v1.submitter.Submitter/{method}")
            with pytest.raises(grpc.RpcError) as caught:
                call(message.SerializeToString(), timeout=20)  # type: ignore[attr-defined]
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            return str(caught.value.details())

        assert "default_task_option: must be set" in told("CreateSession", v3.CreateSessionRequest())
        request = v3.CreateSessionRequest(default_task_option=options, partition_ids=["big"])
        assert "partition_ids: 'big' does not exist" in told("CreateSession", request)
        options.partition_id = "big"
        request = v3.CreateSessionRequest(default_task_option=options)
        assert "default_task_option.partition_id: 'big'" in told("CreateSession", request)
        assert "session_id" in told("CreateSmallTasks", v3.CreateSmallTaskRequest())
