"""Tokens with a role: what each may call, how they are kept, made and revoked."""

from __future__ import annotations

import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest

import runtime
from runtime import errors
from runtime.edge import permissions, tokens
from runtime.edge.tokens import Tokens
from tests.server.conftest import connect
from tests.server.fake_planes import RUN_STEP, SEND_LOGS, STREAM_LOGS

Start = Callable[..., runtime.Server]
HEALTH = "/grpc.health.v1.Health/Check"
SAVE, REGISTER, TARGET = (
    "/pb.WorkerSaver/SaveMachine", "/pb.ServerDispatcher/Register", "/pb.FunctionDispatcher/GetTarget"
)
PING, SUBMIT = "/taskqueue.TaskQueue/PingAndTakeNewTasks", "/taskqueue.TaskQueue/SubmitTask"
RUN_GRAPH = "/tensorflow.WorkerService/RunGraph"


def bearer(text: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {text}"),)


@pytest.mark.parametrize("role, allowed", [
    ("admin", {RUN_STEP, RUN_GRAPH, PING, SUBMIT, SAVE, REGISTER, TARGET, HEALTH}),
    ("user", {RUN_STEP, RUN_GRAPH, PING, SUBMIT, TARGET, HEALTH}),
    ("worker", {RUN_GRAPH, PING, HEALTH}),
    ("server", {REGISTER, HEALTH}),
    ("machine", {SAVE, TARGET, HEALTH}),
])
def test_what_each_role_may_call(tmp_path: Path, role: str, allowed: set[str]) -> None:
    _, text = tokens.issue(tmp_path / "tokens", role)
    accepted = Tokens.read(tmp_path / "tokens")
    for path in (RUN_STEP, RUN_GRAPH, PING, SUBMIT, SAVE, REGISTER, TARGET, HEALTH):
        error = accepted.authorize(path, bearer(text))
        if path in allowed:
            assert error is None
        else:
            assert isinstance(error, errors.PermissionDenied)
            assert role in str(error) and path in str(error) and text not in str(error)


def test_services_narrow_a_token(tmp_path: Path) -> None:
    _, text = tokens.issue(tmp_path / "tokens", "user", ["command"])
    accepted = Tokens.read(tmp_path / "tokens")
    assert accepted.authorize(SUBMIT, bearer(text)) is None
    assert isinstance(accepted.authorize(RUN_STEP, bearer(text)), errors.PermissionDenied)


def test_fleet_checks_need_no_token(tmp_path: Path) -> None:
    tokens.issue(tmp_path / "tokens", "user")
    accepted = Tokens.read(tmp_path / "tokens")
    assert accepted.authorize("/pb.WorkerSaver/Check", ()) is None
    assert isinstance(accepted.authorize(HEALTH, ()), errors.Unauthenticated)


def test_file_holds_no_token_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "tokens"
    token, text = tokens.issue(path, "worker", ["command", "graph"], ["10.0.0.0/8"])
    assert text not in path.read_text()
    assert text.rpartition("_")[2] not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert tokens.read_records(path) == [token]
    assert token.planes == {"command", "graph"} and token.networks == ("10.0.0.0/8",)


def test_wrong_secret_of_a_known_name_is_refused(tmp_path: Path) -> None:
    token, text = tokens.issue(tmp_path / "tokens", "admin")
    accepted = Tokens.read(tmp_path / "tokens")
    for wrong in (text[:-1], text + "a", token.name, token.name + "_", token.digest.hex()):
        assert isinstance(accepted.authorize(RUN_STEP, bearer(wrong)), errors.Unauthenticated)


def test_names_tokens_in_clear_by_their_hash(tmp_path: Path) -> None:
    first, second = "first-token-in-clear", "second-token-in-clear"
    name = Tokens([first, second]).identify(bearer(second)).name
    assert name == Tokens([second]).identify(bearer(second)).name
    assert second not in name


@pytest.mark.parametrize("line, part", [
    ("trt_00000000 sha256:" + "0" * 64 + " role=king", "king"),
    ("trt_00000000 sha256:" + "0" * 64 + " role=user services=graph,tasks", "tasks"),
    ("trt_00000000 sha256:" + "0" * 64 + " role=server networks=10.0.0.0/99", "10.0.0.0/99"),
    ("trt_00000000 sha256:" + "0" * 64 + " rule=user", "rule"),
    ("trt_00000000 sha256:" + "0" * 63, "token 1"),
])
def test_wrong_record_names_what_is_wrong(tmp_path: Path, line: str, part: str) -> None:
    (tmp_path / "tokens").write_text(line + "\n")
    with pytest.raises(errors.InvalidArgument, match=part):
        Tokens.read(tmp_path / "tokens")


def test_revoked_token_is_refused_without_restart(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    token, text = tokens.issue(path, "user")
    _, other = tokens.issue(path, "user")
    accepted = Tokens.read(path)
    now = 0.0
    accepted._clock = lambda: now
    assert accepted.authorize(RUN_STEP, bearer(text)) is None
    tokens.revoke(path, token.name)
    now += tokens.RELOAD_INTERVAL_S
    assert isinstance(accepted.authorize(RUN_STEP, bearer(text)), errors.Unauthenticated)
    assert accepted.authorize(RUN_STEP, bearer(other)) is None
    with pytest.raises(errors.NotFound, match=token.name):
        tokens.revoke(path, token.name)


def test_file_that_cannot_be_used_any_more_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    _, text = tokens.issue(path, "user")
    accepted = Tokens.read(path)
    path.write_text("half a li\n")
    assert accepted.authorize(RUN_STEP, bearer(text)) is None
    path.unlink()
    accepted._next_look = 0.0
    assert accepted.authorize(RUN_STEP, bearer(text)) is None


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize("transport", ["native", "grpc"])
def test_roles_hold_for_unary_and_streaming_calls(serving: Start, tmp_path: Path, transport: str) -> None:
    path = tmp_path / "tokens"
    _, worker = tokens.issue(path, "worker")
    _, user = tokens.issue(path, "user", ["command"])
    server = serving(token_file=path, transport=transport)
    with connect(server.address, token=worker) as client:
        assert client.send(SEND_LOGS, [b"a"]) == b"1"
        for call in (lambda: client.unary(RUN_STEP, b"echo"), lambda: list(client.stream(STREAM_LOGS, b"count 2"))):
            with pytest.raises(grpc.RpcError) as caught:
                call()
            assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
    with connect(server.address, token=user) as client:
        assert list(client.stream(STREAM_LOGS, b"count 2")) == [b"0", b"1"]
        assert client.failure(RUN_STEP, b"echo").code() is grpc.StatusCode.PERMISSION_DENIED


def test_command_makes_lists_and_revokes(tmp_path: Path) -> None:
    def command(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-m", "runtime.cli", "token", *arguments, "--file", str(path)],
                              capture_output=True, text=True, timeout=60, check=False)

    path = tmp_path / "tokens"
    made = command("create", "--role", "worker", "--services", "command")
    assert made.returncode == 0, made.stderr
    text = made.stdout.strip()
    name = Tokens.read(path).identify(bearer(text)).name
    listed = command("list")
    assert listed.stdout == f"{name} role=worker services=command\n"
    assert text not in listed.stdout + made.stderr
    assert command("revoke", name).returncode == 0
    assert command("list").stdout == ""
    assert command("create", "--services", "nothing").returncode == 2


def test_every_role_may_check_health() -> None:
    assert permissions.roles_for(HEALTH) == set(permissions.ROLES)
