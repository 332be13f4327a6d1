"""Tasks that are protected call each other: TLS, certificates of both sides, tokens."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import runtime
from runtime.cli import main as command
from runtime.errors import DeadlineExceeded, InvalidArgument, Unauthenticated
from tests.processes import free_port

TOKEN = "correct-horse-battery-staple"


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two authorities with a certificate each, made by the command, and a file with a token."""
    folder = tmp_path_factory.mktemp("pki")
    for name in ("own", "other"):
        assert command(["cert", "ca", "--out", str(folder / name)]) == 0
        assert command(["cert", "leaf", "task", "--ca", str(folder / name)]) == 0
    for name, lines in (("tokens", [TOKEN]), ("others", ["another-token-of-someone"])):
        (folder / name).write_text("\n".join(lines))
        (folder / name).chmod(0o600)
    return folder


Start = Callable[..., str]


@pytest.fixture
def start() -> Iterator[Start]:
    """Return a function that starts a master and a worker, each with its settings, and returns the master's target."""
    with contextlib.ExitStack() as stack:
        def started(master: dict[str, Any], worker: dict[str, Any]) -> str:
            cluster = {job: [f"127.0.0.1:{free_port()}"] for job in ("master", "worker")}
            stack.enter_context(runtime.Server(cluster, "worker", 0, **worker))
            server = stack.enter_context(runtime.Server(cluster, "master", 0, **master))
            return f"grpc://{server.address}"

        yield started


def step(target: str, size: int = 4, timeout_ms: int = 10_000, **access: Any) -> np.ndarray:
    """Run a step that takes a tensor to the worker and back."""
    graph = runtime.Graph()
    x = graph.placeholder("float32", [None])
    with graph.device("/job:worker"):
        there = x * 2.0
    answer = there + 1.0
    config = runtime.wire.ConfigProto(operation_timeout_in_ms=timeout_ms)
    with runtime.Session(target, graph, config, **access) as session:
        return session.run(answer, {x: np.ones(size, np.float32)})  # type: ignore[no-any-return]


def tls(pki: Path, name: str = "own", **more: Any) -> dict[str, Any]:
    folder = pki / name
    return {"tls_cert": folder / "task.pem", "tls_key": folder / "task.key", **more}


@pytest.mark.parametrize("size", [4, 3_000_000])
def test_certificates_of_both_sides(start: Start, pki: Path, size: int) -> None:
    both = tls(pki, tls_client_ca=pki / "own" / "ca.pem")
    found = step(start(both, both), size, ca=pki / "own" / "ca.pem", cert=pki / "own" / "task.pem",
                 key=pki / "own" / "task.key")
    assert (found == 3).all() and found.size == size


def test_tls_with_a_token(start: Start, pki: Path) -> None:
    both = tls(pki, peer_ca=pki / "own" / "ca.pem", token_file=pki / "tokens")
    assert step(start(both, both), ca=pki / "own" / "ca.pem", token=TOKEN).tolist() == [3.0] * 4


def test_a_token_of_its_own_for_other_tasks(start: Start, pki: Path) -> None:
    target = start({"token_file": pki / "others", "peer_token_file": pki / "tokens"},
                   {"token_file": pki / "tokens", "peer_token_file": pki / "others"})
    assert step(target, token="another-token-of-someone").tolist() == [3.0] * 4


def test_the_wrong_token_is_refused(start: Start, pki: Path) -> None:
    with pytest.raises(Unauthenticated, match="is not one that this server accepts"):
        step(start({"peer_token_file": pki / "others"}, {"token_file": pki / "tokens"}))


def test_a_task_without_a_known_certificate_is_not_called(start: Start, pki: Path) -> None:
    # Whoever answers at the address is not the worker: the master waits for the real one, as for any missing task.
    target = start({"peer_ca": pki / "own" / "ca.pem"}, tls(pki, "other", peer_tls="off"))
    with pytest.raises(DeadlineExceeded):
        step(target, timeout_ms=1500)


def test_a_task_without_a_certificate_is_not_let_in(start: Start, pki: Path) -> None:
    target = start({"peer_ca": pki / "own" / "ca.pem"}, tls(pki, tls_client_ca=pki / "own" / "ca.pem"))
    with pytest.raises(DeadlineExceeded):
        step(target, timeout_ms=1500)


@pytest.mark.parametrize(("settings", "text"), [
    ({"peer_ca": "nowhere.pem"}, "setting peer_ca: .* cannot be read"),
    ({"peer_ca": "tokens"}, "setting peer_ca: .* is not a PEM file"),
    ({"peer_ca": "own/ca.pem", "peer_tls": "off"}, "peer_tls is off"),
    ({"peer_token_file": "own/task.pem"}, "is not valid"),
])
def test_settings_that_cannot_be_are_told_at_the_start(pki: Path, settings: dict[str, str], text: str) -> None:
    options = {name: value if value == "off" else pki / value for name, value in settings.items()}
    with pytest.raises(InvalidArgument, match=text):
        runtime.Server({"a": [f"127.0.0.1:{free_port()}"]}, "a", 0, **options)
