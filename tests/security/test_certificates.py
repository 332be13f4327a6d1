"""Certificates that are expired, self-signed, of another authority or of another name: neither side goes on."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import ExtendedKeyUsageOID

import runtime
from runtime import errors, wire
from runtime.client.channels import Access
from tests.fleet import certificates
from tests.proto_calls import unary
from tests.security import calls
from tests.security.calls import METHODS, UNAVAILABLE, Streams, status
from tests.security.conftest import TRANSPORTS

KINDS = ("none", "expired", "not yet valid", "self-signed", "of another authority", "of a leaf", "for servers alone")


@pytest.fixture(scope="module")
def shown(pki: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Path]]:
    """Return a function that gives certificate and key of a kind, as files."""
    folder = tmp_path_factory.mktemp("shown")
    authority = x509.load_pem_x509_certificate((pki / "ca.pem").read_bytes())
    authority_key = serialization.load_pem_private_key((pki / "ca.key").read_bytes(), None)
    leaf = x509.load_pem_x509_certificate((pki / "client.pem").read_bytes())
    leaf_key = serialization.load_pem_private_key((pki / "client.key").read_bytes(), None)
    client = (ExtendedKeyUsageOID.CLIENT_AUTH,)
    signed = {"issuer": authority, "issuer_key": authority_key, "usage": client}

    def make(kind: str) -> tuple[Path, Path]:
        match kind:
            case "good":
                made = certificates.make("client", **signed)
            case "expired":
                made = certificates.make("client", days=(-10, -1), **signed)
            case "not yet valid":
                made = certificates.make("client", days=(1, 10), **signed)
            case "self-signed":
                made = certificates.make("client", usage=client)
            case "of a leaf":
                made = certificates.make("client", issuer=leaf, issuer_key=leaf_key, usage=client)
            case "for servers alone":
                made = certificates.make("client", **{**signed, "usage": (ExtendedKeyUsageOID.SERVER_AUTH,)})
            case "of another authority":
                return pki / "other" / "client.pem", pki / "other" / "client.key"
        paths = folder / f"{kind}.pem", folder / f"{kind}.key"
        chain = certificates.pem(made[0], leaf) if kind == "of a leaf" else certificates.pem(made[0])
        paths[0].write_bytes(chain)
        paths[1].write_bytes(certificates.key_pem(made[1]))
        return paths

    return make


@pytest.fixture(scope="module", params=TRANSPORTS)
def server(request: pytest.FixtureRequest, pki: Path, tmp_path_factory: pytest.TempPathFactory
           ) -> Iterator[runtime.Server]:
    """A server of every plane that asks for a client's certificate."""
    with runtime.Server(
        listen="localhost:0", transport=request.param, data_dir=tmp_path_factory.mktemp("data"),
        tls_cert=pki / "server.pem", tls_key=pki / "server.key", tls_client_ca=pki / "ca.pem",
        command_providers=(), command_max_workers=0,
    ) as started:
        yield started


def channel(server: runtime.Server, pki: Path, pair: tuple[Path, Path] | None) -> grpc.Channel:
    roots = (pki / "ca.pem").read_bytes()
    key, chain = (pair[1].read_bytes(), pair[0].read_bytes()) if pair else (None, None)
    return grpc.secure_channel(server.address, grpc.ssl_channel_credentials(roots, key, chain), calls.UNLIMITED)


@pytest.mark.parametrize("kind", KINDS)
def test_no_method_is_open_to_a_client_without_a_valid_certificate(
    server: runtime.Server, pki: Path, shown: Callable[[str], tuple[Path, Path]], kind: str
) -> None:
    pair = None if kind == "none" else shown(kind)
    with channel(server, pki, pair) as client:
        found = {method.path: status(client, method, [b"\xff"])[0] for method in METHODS}
    assert set(found.values()) == {UNAVAILABLE}, {path for path, code in found.items() if code != UNAVAILABLE}
    # Nor does any byte of HTTP/2 come back to a client that sends without waiting for the end of the handshake.
    context = ssl.create_default_context(cafile=pki / "ca.pem")
    context.set_alpn_protocols(["h2"])
    if pair is not None:
        context.load_cert_chain(*pair)
    with pytest.raises((ssl.SSLError, ConnectionError)), Streams(server.address, context) as raw:
        raw.open(calls.HEALTH)
        raw.socket.settimeout(10)
        while raw.socket.recv(1 << 16):
            raise AssertionError("the server speaks to a stranger")
        raise ConnectionError("closed")
    with channel(server, pki, shown("good")) as client:
        assert client.unary_unary(calls.HEALTH)(b"", timeout=10) == b"\x08\x01"


SERVERS = {
    "of another name": "elsewhere.pem",
    "of another authority": "other/server.pem",
    "self-signed": None,
    "expired": None,
}


@pytest.mark.parametrize("kind", SERVERS)
def test_our_clients_take_no_server_with_a_wrong_certificate(pki: Path, tmp_path: Path, kind: str) -> None:
    """The blocking client's channels, the connections of tasks and agents, and Session: all refuse, and say why."""
    name = SERVERS[kind]
    if name is not None:
        certificate, key = pki / name, (pki / name).with_suffix(".key")
    else:
        authority = x509.load_pem_x509_certificate((pki / "ca.pem").read_bytes())
        authority_key = serialization.load_pem_private_key((pki / "ca.key").read_bytes(), None)
        issuer = {} if kind == "self-signed" else {"issuer": authority, "issuer_key": authority_key, "days": (-9, -1)}
        made = certificates.make("server", ips=("127.0.0.1",), **issuer)  # type: ignore[arg-type]
        certificate, key = tmp_path / "server.pem", tmp_path / "server.key"
        certificate.write_bytes(certificates.pem(made[0]))
        key.write_bytes(certificates.key_pem(made[1]))
    with runtime.Server(services=("graph",), tls_cert=certificate, tls_key=key) as server:
        target = server.target
        access = Access(tls=True, ca=(pki / "ca.pem").read_bytes(), token="a-secret-that-must-not-leave")
        with pytest.raises(errors.Unavailable):
            unary(target, access, calls.HEALTH, wire.health.HealthCheckRequest())
        assert refused_by_own_http2(server.address, pki)
        assert server._listener is not None and server._listener.account.num_calls == 0


def refused_by_own_http2(address: str, pki: Path) -> bool:
    import asyncio

    from runtime.edge.connect import connect

    context = ssl.create_default_context(cafile=pki / "ca.pem")
    context.set_alpn_protocols(["h2"])
    with pytest.raises(errors.Unavailable, match="certificate"):
        asyncio.run(connect(address, context))
    return True
