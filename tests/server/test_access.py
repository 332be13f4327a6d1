"""Who may connect and call: addresses, TLS, client certificates, tokens."""

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
from runtime.authority import certificates
from runtime.edge import auth
from runtime.edge.tokens import Tokens
from tests.server.conftest import Client, connect
from tests.server.fake_planes import PROCESS, RUN_STEP, SEND_LOGS, STREAM_LOGS

TOKEN = "correct-horse-battery-staple"
HEALTH, WATCH = "/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"
REFLECTION = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
LIST_SERVICES = b"\x3a\x00"
Start = Callable[..., runtime.Server]


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an authority, a server's and a client's certificate, and those of a stranger."""
    folder = tmp_path_factory.mktemp("pki")
    certificates.make_authority(folder, "test CA", 10)
    certificates.make_leaf(folder, folder, "server", [], 10)
    certificates.make_leaf(folder, folder, "client", ["client.test"], 10)
    certificates.make_authority(folder / "other", "stranger", 10)
    certificates.make_leaf(folder / "other", folder / "other", "client", [], 10)
    return folder


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "tokens"
    path.write_text(f"# who may call\n\nanother-token-of-someone\n{TOKEN}\n")
    path.chmod(0o600)
    return path


def client_credentials(folder: Path, leaf: Path | None = None) -> grpc.ChannelCredentials:
    roots = (folder / "ca.pem").read_bytes()
    if leaf is None:
        return grpc.ssl_channel_credentials(roots)
    return grpc.ssl_channel_credentials(roots, leaf.with_suffix(".key").read_bytes(), leaf.read_bytes())


def assert_every_form_works(client: Client) -> None:
    assert client.unary(RUN_STEP, b"echo") == b"echo"
    assert list(client.stream(STREAM_LOGS, b"count 2")) == [b"0", b"1"]
    assert client.send(SEND_LOGS, [b"a"]) == b"1"
    assert list(client.both(PROCESS, [b"x"])) == [b"x"]
    assert client.unary(HEALTH) == b"\x08\x01"
    watch = client.stream(WATCH)
    assert next(watch) == b"\x08\x01"
    watch.cancel()
    assert b"tensorflow.MasterService" in next(client.both(REFLECTION, [LIST_SERVICES]))


def statuses_of_every_form(client: Client) -> set[grpc.StatusCode]:
    found = set()
    for attempt in (
        lambda: client.unary(RUN_STEP, b"echo", timeout=5),
        lambda: list(client.stream(STREAM_LOGS, b"count 2", timeout=5)),
        lambda: client.send(SEND_LOGS, [b"a"], timeout=5),
        lambda: list(client.both(PROCESS, [b"x"], timeout=5)),
        lambda: client.unary(HEALTH, timeout=5),
        lambda: list(client.stream(WATCH, timeout=5)),
        lambda: list(client.both(REFLECTION, [LIST_SERVICES], timeout=5)),
        lambda: client.unary("/pb.WorkerSaver/SaveMachine", timeout=5),
    ):
        with pytest.raises(grpc.RpcError) as caught:
            attempt()
        found.add(caught.value.code())
    return found


def test_tls_works_for_every_form(serving: Start, pki: Path) -> None:
    server = serving(listen="localhost:0", tls_cert=pki / "server.pem", tls_key=pki / "server.key")
    with connect(server.address, client_credentials(pki)) as client:
        assert_every_form_works(client)


def test_tls_server_takes_no_call_in_clear_text(serving: Start, pki: Path) -> None:
    server = serving(tls_cert=pki / "server.pem", tls_key=pki / "server.key")
    with connect(server.address) as client:
        assert client.failure(HEALTH, timeout=5).code() is grpc.StatusCode.UNAVAILABLE


def test_mutual_tls_works_for_every_form(serving: Start, pki: Path) -> None:
    server = serving(
        listen="localhost:0",
        tls_cert=pki / "server.pem",
        tls_key=pki / "server.key",
        tls_client_ca=pki / "ca.pem",
    )
    with connect(server.address, client_credentials(pki, pki / "client.pem")) as client:
        assert_every_form_works(client)


@pytest.mark.parametrize("leaf", [None, "other/client.pem"])
def test_mutual_tls_refuses_a_stranger(serving: Start, pki: Path, leaf: str | None) -> None:
    server = serving(
        listen="localhost:0",
        tls_cert=pki / "server.pem",
        tls_key=pki / "server.key",
        tls_client_ca=pki / "ca.pem",
    )
    with connect(server.address, client_credentials(pki, pki / leaf if leaf else None)) as client:
        assert statuses_of_every_form(client) == {grpc.StatusCode.UNAVAILABLE}


def test_token_works_for_every_form(serving: Start, token_file: Path) -> None:
    server = serving(token_file=token_file)
    with connect(server.address, token=TOKEN) as client:
        assert_every_form_works(client)


@pytest.mark.parametrize("token", [None, "wrong-horse-battery-staple", TOKEN[:-1], TOKEN + "x", "# who may call"])
def test_wrong_token_is_refused_in_every_form(serving: Start, token_file: Path, token: str | None) -> None:
    with connect(serving(token_file=token_file).address, token=token) as client:
        assert statuses_of_every_form(client) == {grpc.StatusCode.UNAUTHENTICATED}


def test_token_is_checked_before_the_request_is_read(serving: Start, token_file: Path) -> None:
    server = serving(token_file=token_file)
    with connect(server.address) as client:
        error = client.failure(RUN_STEP, bytes(64 << 20))
    assert error.code() is grpc.StatusCode.UNAUTHENTICATED
    assert "Bearer" in error.details()


def test_token_over_tls(serving: Start, pki: Path, token_file: Path) -> None:
    server = serving(
        listen="localhost:0", tls_cert=pki / "server.pem", tls_key=pki / "server.key", token_file=token_file
    )
    with connect(server.address, client_credentials(pki), token=TOKEN) as client:
        assert_every_form_works(client)
    with connect(server.address, client_credentials(pki)) as client:
        assert statuses_of_every_form(client) == {grpc.StatusCode.UNAUTHENTICATED}


@pytest.mark.parametrize(
    "value, reason",
    [
        (f"Bearer {TOKEN}", None),
        (f"bearer {TOKEN}", None),
        (TOKEN, "Bearer TOKEN"),
        (f"Basic {TOKEN}", "Bearer TOKEN"),
        ("Bearer ", "not one"),
        ("Bearer \udcff", "not one"),
        (b"Bearer " + TOKEN.encode(), None),
    ],
)
def test_forms_of_the_header(value: str | bytes, reason: str | None) -> None:
    answer = Tokens([TOKEN]).authorize(RUN_STEP, (("x", "y"), ("authorization", value)))
    assert answer is None if reason is None else answer is not None and reason in str(answer)


@pytest.mark.parametrize("text", ["", "# nothing\n", "short\n", "has a space in its middle\n", "unsichtbar-üüüüüüüü\n"])
def test_unusable_token_file_is_refused_without_showing_it(tmp_path: Path, text: str) -> None:
    path = tmp_path / "tokens"
    path.write_text(text)
    with pytest.raises(errors.InvalidArgument, match=str(path)) as caught:
        Tokens.read(path)
    for line in text.split("\n"):
        assert not line.strip("# ") or line not in str(caught.value)


@pytest.mark.parametrize(
    "listen, local",
    [
        ("127.0.0.1:0", True),
        ("127.8.9.1:80", True),
        ("[::1]:0", True),
        ("[::ffff:127.0.0.1]:1", True),
        ("localhost:0", True),
        ("unix:/tmp/x", True),
        ("0.0.0.0:0", False),
        ("[::]:0", False),
        (":0", False),
        ("10.0.0.1:0", False),
        ("name.invalid:0", False),
    ],
)
def test_what_counts_as_local(listen: str, local: bool) -> None:
    assert auth.is_local(listen) is local


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "[::]:0", ":0"])
def test_open_listener_is_refused_with_the_ways_out(listen: str) -> None:
    with pytest.raises(errors.FailedPrecondition) as caught:
        runtime.Server(listen=listen)
    for part in (listen, "--tls-cert", "--token-file", "127.0.0.1", "unix:PATH", "--insecure"):
        assert part in str(caught.value)


def test_open_listener_starts_with_protection_or_insecure(serving: Start, pki: Path, token_file: Path) -> None:
    for options in (
        {"insecure": True},
        {"token_file": token_file},
        {"tls_cert": pki / "server.pem", "tls_key": pki / "server.key"},
    ):
        server = serving(listen="0.0.0.0:0", **options)
        scheme = "grpcs" if "tls_cert" in options else "grpc"
        assert server.target.startswith(f"{scheme}://0.0.0.0:")
        assert not server.target.endswith(":0")


@pytest.mark.parametrize(
    "options, part",
    [
        ({"tls_cert": "server.pem"}, "without tls_key"),
        ({"tls_key": "server.key"}, "without tls_cert"),
        ({"tls_client_ca": "ca.pem"}, "tls_client_ca"),
        ({"tls_cert": "absent.pem", "tls_key": "server.key"}, "absent.pem"),
        ({"tls_cert": "server.key", "tls_key": "server.key"}, "not a PEM file with a certificate"),
        ({"tls_cert": "server.pem", "tls_key": "server.pem"}, "not a PEM file with a private key"),
        ({"tls_cert": "server.pem", "tls_key": "client.key"}, "certificate and key"),
    ],
)
def test_half_configured_tls_is_refused(pki: Path, options: dict[str, str], part: str) -> None:
    with pytest.raises(errors.Error, match=part):
        runtime.Server(**{name: pki / file for name, file in options.items()})


def test_certificate_keys_are_private_and_not_overwritten(tmp_path: Path) -> None:
    certificate, key = certificates.make_authority(tmp_path, "x", 1)
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    before = key.read_bytes()
    with pytest.raises(errors.AlreadyExists, match="--force"):
        certificates.make_authority(tmp_path, "x", 1)
    assert key.read_bytes() == before
    certificates.make_authority(tmp_path, "x", 1, force=True)
    assert key.read_bytes() != before
    assert stat.S_IMODE(key.stat().st_mode) == 0o600


def test_leaf_is_for_its_hosts_and_not_longer_valid_than_its_authority(tmp_path: Path) -> None:
    from cryptography import x509

    certificates.make_authority(tmp_path, "x", 3)
    path, key = certificates.make_leaf(tmp_path, tmp_path / "out", "node", ["node.test", "10.1.2.3"], 1000)
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    leaf = x509.load_pem_x509_certificate(path.read_bytes())
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["node.test"]
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == ["10.1.2.3"]
    authority = x509.load_pem_x509_certificate((tmp_path / "ca.pem").read_bytes())
    assert leaf.not_valid_after_utc <= authority.not_valid_after_utc
    leaf.verify_directly_issued_by(authority)


@pytest.mark.parametrize("name", ["", "..", "a/b", "ca"])
def test_leaf_name_must_be_a_file_name(tmp_path: Path, name: str) -> None:
    certificates.make_authority(tmp_path, "x", 3)
    with pytest.raises(errors.InvalidArgument, match="file name"):
        certificates.make_leaf(tmp_path, tmp_path, name, [], 1)


def test_leaf_needs_an_authority(tmp_path: Path) -> None:
    with pytest.raises(errors.FailedPrecondition, match="cert ca"):
        certificates.make_leaf(tmp_path, tmp_path, "x", [], 1)
    certificates.make_authority(tmp_path, "x", 3)
    certificates.make_authority(tmp_path / "other", "x", 3)
    (tmp_path / "ca.key").write_bytes((tmp_path / "other" / "ca.key").read_bytes())
    with pytest.raises(errors.FailedPrecondition, match="not the key"):
        certificates.make_leaf(tmp_path, tmp_path, "x", [], 1)


def test_absent_cryptography_is_named(tmp_path: Path) -> None:
    script = (
        "import sys; sys.modules['cryptography'] = None\n"
        "from runtime.cli import main\n"
        f"sys.exit(main(['cert', 'ca', '--out', {str(tmp_path)!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert "pip install 'tensor-runtime[tls]'" in done.stderr
    assert "Traceback" not in done.stderr
