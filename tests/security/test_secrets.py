"""Secrets are planted wherever a setting, a flag or a call takes one, and looked for in everything that is written.

The server runs at its most talkative; clients, agents, workers and commands use the secrets rightly and wrongly. What
may hold a secret afterwards are the files in which it was given, and those of agents that only their user can read.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import runtime
from runtime import config, errors, wire
from runtime.agent.folders import CommandFolder
from runtime.agent.options import AgentOptions
from runtime.agent.runners import Runners
from runtime.authority.authority import Authority, InvitationText
from runtime.authority.certificates import make_authority, make_leaf
from runtime.client.access import Access
from runtime.client.authority import AuthorityClient
from runtime.client.channels import Access as ChannelAccess
from runtime.edge import tokens
from runtime.edge.peer_access import peer_access
from tests.processes import ServerProcess, start_server
from tests.proto_calls import unary
from tests.security.conftest import HOSTS
from tests.security.test_hostile_connections import until

WAIT_S = 30.0


class Planted:
    """The secrets by what they are, and where they were given."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.secrets: dict[str, str] = {}
        self.given_in: set[Path] = set()

    def plant(self, what: str, text: str) -> str:
        self.secrets[what] = text
        return text

    def file(self, what: str, name: str, text: str) -> Path:
        path = self.folder / name
        path.write_text(self.plant(what, text) + "\n")
        path.chmod(0o600)
        self.given_in.add(path)
        return path

    def key(self, what: str, path: Path) -> Path:
        lines = path.read_text().splitlines()
        self.plant(what, lines[1][20:60])
        self.given_in.add(path)
        return path

    def found_in(self, data: bytes) -> list[str]:
        return [what for what, text in self.secrets.items() if text.encode() in data]


class Processes:
    """Looks at the arguments of every process of this session for as long as it lasts."""

    def __init__(self) -> None:
        self.seen: set[bytes] = set()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Processes:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._ended.wait(0.02):
            for name in os.listdir("/proc"):
                if name.isdigit() and int(name) != os.getpid():
                    with contextlib.suppress(OSError):
                        self.seen.add(Path(f"/proc/{name}/cmdline").read_bytes())


def cli(*commands: list[str]) -> str:
    """Run commands, one after the other in one process, and return all that they print."""
    script = "import json, sys; from runtime.cli import main\nfor words in json.load(sys.stdin): print(main(words))"
    done = subprocess.run([sys.executable, "-c", script], input=json.dumps(commands), capture_output=True, text=True,
                          timeout=60, check=True)
    return done.stdout + done.stderr


@contextlib.contextmanager
def beside(folder: Path, name: str, *words: str, env: dict[str, str]) -> Iterator[Path]:
    """Run a command of ours beside the test; its output goes to a file."""
    path = folder / f"{name}.log"
    with open(path, "wb") as out, subprocess.Popen(
        [sys.executable, "-m", "runtime.cli", *words], stdin=subprocess.PIPE, stdout=out, stderr=out,
        env={**os.environ, **env},
    ) as process:
        try:
            yield path
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


def told(call: Callable[[], Any]) -> str:
    """Return all that an exception and those before it say."""
    try:
        call()
    except Exception as error:
        return "".join([*traceback.format_exception(error), repr(error), str(error), str(vars(error)), str(error.args)])
    raise AssertionError("the call was to fail")


def test_secrets_are_written_nowhere(tmp_path: Path) -> None:
    planted = Planted(tmp_path)
    pki = tmp_path / "pki"
    make_authority(pki, "test CA", 30)
    make_leaf(pki, pki, "server", HOSTS, 10)
    make_leaf(pki, pki, "client", HOSTS, 10)
    for name in ("ca", "server", "client"):
        planted.key(f"key of {name}", pki / f"{name}.key")
    clear = planted.plant("token in clear", "clear-token-of-the-admin-7f3a")
    accepted = planted.file("token in clear", "tokens", clear)
    issued = planted.plant("issued token", tokens.issue(accepted, "user")[1])
    machine = planted.plant("token of a machine", tokens.issue(accepted, "machine")[1])
    peer = planted.file("token for other tasks", "peer-token", "peer-token-in-clear-91bc")
    joining = planted.file("token for the dispatcher", "join-token", tokens.issue(accepted, "server")[1])
    working = planted.file("token of workers", "worker-token", tokens.issue(accepted, "worker")[1])
    using = planted.file("issued token", "user-token", issued)
    reporting = planted.file("token of a machine", "machine-token", machine)
    invited = Authority(pki).invite("member", HOSTS, 1, 3600)
    planted.plant("secret of an invitation", invited.secret)
    invitation = tmp_path / "invitation"
    invitation.write_text(str(invited))
    planted.given_in.add(invitation)
    wrong = planted.plant("token of a stranger", "token-of-a-stranger-55de")
    password = planted.plant("password of a registry", "registry-password-e41c")
    written: list[str] = []
    flags = [
        "--token-file", str(accepted), "--authority", str(pki),
        "--tls-cert", str(pki / "server.pem"), "--tls-key", str(pki / "server.key"), "--peer-token-file", str(peer),
        "--command-worker-token-file", str(working), "--command-worker-ca", str(pki / "ca.pem"), "--log-level", "debug",
    ]
    with Processes() as processes, start_server(tmp_path, *flags) as server:
        target = server.target
        ca = ["--ca", str(pki / "ca.pem")]
        environment = {"REGISTRY_PASSWORD": password, "XDG_DATA_HOME": str(tmp_path / "home")}
        with (
            beside(tmp_path, "agent", "agent", target, *ca, "--token-file", str(working), "--allow-bare", "--env",
                   "REGISTRY_PASSWORD", "--state-dir", str(tmp_path / "agent"), "--sandbox", "off", env=environment),
            beside(tmp_path, "worker", "worker", "tests.tasks.worker_functions:double", "--server", target, *ca,
                   "--server-token-file", str(working), "--log-level", "debug", env=environment),
            beside(tmp_path, "reports", "machine", "report", target, *ca, "--token-file", str(reporting), "--every",
                   env=environment),
            beside(tmp_path, "member", "serve", "--listen", "127.0.0.1:0", "--services", "fleet", "--data-dir",
                   str(tmp_path / "member"), "--enrol-with", target, "--enrol-invitation", str(invitation),
                   "--fleet-join", target, "--fleet-join-token-file", str(joining), "--fleet-join-ca",
                   str(pki / "ca.pem"), "--token-file", str(accepted), "--log-level", "debug",
                   env=environment) as member,
        ):
            access = ["--token-file", str(using), *ca]
            at = ["--server", target, *access]
            text = 'test -n "$REGISTRY_PASSWORD" && echo has it'
            done = cli(["command", "submit", text, *at], ["command", "logs", "-f", "1", *at])
            assert "has it" in done, done
            until(lambda: "ready" in member.read_text(), "member of the fleet", WAIT_S)
            planted.key("key of the member", tmp_path / "member" / "identity" / "key.pem")
            written += [done, cli(
                ["command", "show", "1", *at],
                ["workers", "list", "--of", "commands", *at],
                ["workers", "list", *at],
                ["task", "list", *at],
                ["status", target, *access, "-o", "json"],
                ["status", target, *ca, "--token-file", str(peer)],
                ["trace", target, "--steps", "1", "--timeout", "0.2", *access],
                ["fleet", "target", target, "00000000-0000-4000-8000-000000000000", *access],
                ["fleet", "list", "--data-dir", str(tmp_path / "data")],
                ["token", "list", "--file", str(accepted)],
                ["cert", "list", "--ca", str(pki)],
                ["cert", "revoke", "member", "--ca", str(pki)],
                ["config", "show", "--origin", *flags],
            )]
            written += _errors(target, pki, clear, wrong, invited, planted)
        written += _printed(flags, tmp_path, pki, clear)
    _check(planted, server, processes, written)


def _errors(target: str, pki: Path, clear: str, wrong: str, invited: Any, planted: Planted) -> list[str]:
    """Return what the errors of calls with secrets say that are right, wrong, or in the wrong place."""
    ca = (pki / "ca.pem").read_bytes()
    check, health = "/grpc.health.v1.Health/Check", wire.health.HealthCheckRequest()
    key = (pki / "client.key").read_text()
    return [
        told(lambda: unary(target, ChannelAccess(token=wrong, tls=True, ca=ca), check, health)),
        told(lambda: unary(target, ChannelAccess(token=clear, tls=True, ca=ca), "/pb.NoSuch/Method", health)),
        told(lambda: unary("grpc://127.0.0.1:1", ChannelAccess(token=clear), check, health)),
        told(lambda: AuthorityClient(target, ca).enrol(invited.name, invited.secret, b"no request")),
        told(lambda: AuthorityClient(target, ca).enrol("tri_00000000", invited.secret, b"no request")),
        told(lambda: runtime.Session(target, token=clear + " ", ca=ca)),
        told(lambda: runtime.Session(target, token=clear, ca=ca, cert=pki / "client.pem", key=key)),
        told(lambda: runtime.Session(target, token=clear, cert=pki / "client.pem")),
        told(lambda: tokens.Tokens([clear + " with a blank"])),
        told(lambda: InvitationText.parse(str(invited) + "x" * 5)),
    ]


def _printed(flags: list[str], folder: Path, pki: Path, clear: str) -> list[str]:
    """Return what objects that hold secrets show of themselves."""
    names = [flag.removeprefix("--").replace("-", "_") for flag in flags[::2]]
    loaded = config.load(dict(zip(names, flags[1::2], strict=True)), {}, user_file=False)
    access = Access(token=clear, ca=b"", key=(pki / "client.key").read_bytes(), cert=(pki / "client.pem").read_bytes())
    accepted = tokens.read_records(folder / "tokens")
    return [repr(loaded), repr(access), repr(peer_access(loaded.settings)), repr(accepted), str(access)]


def _check(planted: Planted, server: ServerProcess, processes: Processes, written: list[str]) -> None:
    assert len(planted.secrets) >= 12
    for text in written:
        assert planted.found_in(text.encode()) == [], text
    assert any(b"--token-file" in words for words in processes.seen)
    for words in processes.seen:
        assert planted.found_in(words) == [], words
    assert "a certificate was signed" in server.log()
    looked_at = 0
    for path in planted.folder.rglob("*"):
        if not path.is_file() or path in planted.given_in:
            continue
        found = planted.found_in(path.read_bytes())
        if found and "agent" in path.relative_to(planted.folder).parts[:1]:
            # What commands are given has to lie where their processes find it: nobody else does.
            assert found == ["password of a registry"]
            assert (planted.folder / "agent").stat().st_mode & 0o077 == 0 or path.stat().st_mode & 0o077 == 0
            continue
        assert found == [], path
        looked_at += 1
    assert looked_at > 10


def test_a_container_gets_its_environment_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What stands among the arguments of docker or podman can be read by every user of the machine."""
    program = tmp_path / "docker"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    secret = "registry-password-e41c"
    options = AgentOptions("w", 1, tmp_path, sandbox="off", environment={"REGISTRY_PASSWORD": secret, "CPU": "7"})
    spec = Runners(options).spec(CommandFolder(tmp_path, 1, 1), "true", "image", 1, 1)
    argv = spec["argv"]
    assert secret not in " ".join(argv)
    assert (spec["env"]["REGISTRY_PASSWORD"], spec["env"]["CPU"]) == (secret, "7")
    position = argv.index("REGISTRY_PASSWORD")
    assert argv[position - 1] == "-e"
    assert not any(word.startswith("CPU=") for word in argv)


def test_an_error_about_a_key_does_not_show_it(tmp_path: Path) -> None:
    make_authority(tmp_path, "test CA", 30)
    make_leaf(tmp_path, tmp_path, "client", HOSTS, 10)
    key = (tmp_path / "client.key").read_text()
    for given in (key, "no such file", [key]):
        with pytest.raises(errors.InvalidArgument) as caught:
            Access.of("grpcs://a:1", None, None, None, tmp_path / "client.pem", given, None)
        assert key[40:80] not in str(caught.value)
