"""Servers that get their certificate from an authority, renew it while they serve, and lose it; and their fleet."""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509

import runtime
from runtime import wire
from runtime.authority.authority import Authority
from runtime.authority.certificates import make_authority, make_leaf
from runtime.cli import main
from runtime.client.authority import AuthorityClient
from runtime.client.channels import Access
from runtime.client.fleet import FleetClient
from runtime.edge import tokens
from runtime.errors import FailedPrecondition, InvalidArgument, Unauthenticated, Unavailable
from runtime.fleet.machine_ids import machine_id_of_text
from tests.proto_calls import unary

HOSTS = ["localhost", "127.0.0.1"]
WAIT_S = 30.0


def until(what: Callable[[], Any], awaited: str) -> Any:
    deadline = time.monotonic() + WAIT_S
    while not (found := what()):
        assert time.monotonic() < deadline, f"no {awaited} within {WAIT_S} s"
        time.sleep(0.3)  # one host may ask a fleet ten times a second
    return found


@pytest.fixture
def pki(tmp_path: Path) -> Path:
    """An authority's folder, with the certificate of the server that signs."""
    folder = tmp_path / "pki"
    make_authority(folder, "test CA", 100)
    make_leaf(folder, folder, "signer", HOSTS, 10)
    return folder


@pytest.fixture
def signer(pki: Path, tmp_path: Path) -> Iterator[runtime.Server]:
    token_file = tmp_path / "tokens"
    token_file.touch(0o600)
    tokens.issue(token_file, "admin")
    with runtime.Server(
        services=("fleet",), data_dir=tmp_path / "signer", authority=pki, tls_cert=pki / "signer.pem",
        tls_key=pki / "signer.key", token_file=token_file, fleet_ca=pki / "ca.pem", fleet_crl=pki / "crl.pem"
        if (pki / "crl.pem").exists() else None, fleet_networks=("127.0.0.0/8",), fleet_lease_s=3,
    ) as server:
        yield server


def invitation(pki: Path, tmp_path: Path, days: float = 30) -> Path:
    path = tmp_path / "invitation"
    path.write_text(f"{Authority(pki).invite('member', HOSTS, days, 3600)}\n")
    return path


def shown(server: runtime.Server) -> bytes:
    host, port = server.address.rsplit(":", 1)
    return ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate((host, int(port)), timeout=10))


def test_a_server_enrols_and_is_verified_by_the_authority(signer: runtime.Server, pki: Path, tmp_path: Path) -> None:
    path = invitation(pki, tmp_path)
    options: dict[str, Any] = {"services": ("graph",), "data_dir": tmp_path / "member", "enrol_with": signer.target}
    with runtime.Server(enrol_invitation=path, **options) as member:
        access = Access(tls=True, ca=(pki / "ca.pem").read_bytes())
        check = "/grpc.health.v1.Health/Check"
        assert unary(member.target, access, check, wire.health.HealthCheckRequest()) == b"\x08\x01"
        first = shown(member)
    path.unlink()
    # The certificate from before does; no invitation is needed, and the authority need not be there.
    signer.stop(0)
    with runtime.Server(**options) as member:
        assert shown(member) == first
    assert (tmp_path / "member" / "identity" / "key.pem").stat().st_mode & 0o777 == 0o600


def test_a_certificate_is_renewed_and_no_stream_is_cut(signer: runtime.Server, pki: Path, tmp_path: Path) -> None:
    days = 12 / 86400
    with runtime.Server(
        services=("graph",), data_dir=tmp_path / "member", enrol_with=signer.target,
        enrol_invitation=invitation(pki, tmp_path, days),
    ) as member:
        roots = grpc.ssl_channel_credentials((pki / "ca.pem").read_bytes())
        with grpc.secure_channel(member.address, roots) as channel:
            watch = channel.unary_stream("/grpc.health.v1.Health/Watch")(b"")
            assert next(watch) == b"\x08\x01"
            first = shown(member)
            until(lambda: shown(member) != first, "renewed certificate")
            first_end = x509.load_der_x509_certificate(first).not_valid_after_utc.timestamp()
            until(lambda: time.time() > first_end, "end of the first certificate")
            # The connection of before still answers, and a new one is verified.
            assert channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=10) == b"\x08\x01"
            assert watch.is_active()
            watch.cancel()
        with grpc.secure_channel(member.address, roots) as channel:
            assert channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=10) == b"\x08\x01"
        leaves = [x509.load_der_x509_certificate(der) for der in (first, shown(member))]
        assert leaves[0].public_key() == leaves[1].public_key()


@pytest.mark.parametrize("transport", ["native", "grpc"])
def test_files_that_are_replaced_serve_the_next_connection(
    pki: Path, transport: str, caplog: pytest.LogCaptureFixture
) -> None:
    certificate, key = pki / "signer.pem", pki / "signer.key"
    with runtime.Server(services=("graph",), tls_cert=certificate, tls_key=key, transport=transport) as server:
        first = shown(server)
        certificate.write_bytes(b"half a file")
        until(lambda: shown(server) == first and "the changed TLS files cannot be used" in caplog.text, "complaint")
        assert shown(server) == first
        make_leaf(pki, pki, "signer", HOSTS, 5, force=True)
        until(lambda: shown(server) != first, "certificate of the new file")
        roots = grpc.ssl_channel_credentials((pki / "ca.pem").read_bytes())
        with grpc.secure_channel(server.address, roots) as channel:
            assert channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=10) == b"\x08\x01"


def test_a_revoked_client_is_cut_off_and_not_let_in_again(pki: Path) -> None:
    authority = Authority(pki)
    for name in ("good", "bad"):
        make_leaf(pki, pki, name, ["client.test"], 10)
        authority.note(x509.load_pem_x509_certificate((pki / f"{name}.pem").read_bytes()), ["client.test"], 10)
    authority.revocation_list()

    def channel(name: str) -> grpc.Channel:
        ca, key, chain = (path.read_bytes() for path in (pki / "ca.pem", pki / f"{name}.key", pki / f"{name}.pem"))
        # One connection a channel, also of two with the same arguments.
        options = [("grpc.use_local_subchannel_pool", 1)]
        return grpc.secure_channel(server.address, grpc.ssl_channel_credentials(ca, key, chain), options)

    def check(over: grpc.Channel) -> bytes:
        answer: bytes = over.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=5)
        return answer

    with runtime.Server(
        services=("graph",), tls_cert=pki / "signer.pem", tls_key=pki / "signer.key", tls_client_ca=pki / "ca.pem",
        tls_crl=pki / "crl.pem",
    ) as server, channel("good") as good, channel("bad") as bad:
        assert check(good) == check(bad) == b"\x08\x01"
        watch = bad.unary_stream("/grpc.health.v1.Health/Watch")(b"")
        assert next(watch) == b"\x08\x01"
        assert main(["cert", "revoke", "bad", "--ca", str(pki)]) == 0
        with pytest.raises(grpc.RpcError) as cut:
            next(watch)
        assert cut.value.code() is grpc.StatusCode.UNAVAILABLE
        with pytest.raises(grpc.RpcError), channel("bad") as again:
            check(again)
        assert check(good) == b"\x08\x01"


def test_an_authority_of_another_name_is_told_no_secret(signer: runtime.Server, pki: Path, tmp_path: Path) -> None:
    make_authority(tmp_path / "other", "other CA", 10)
    text = Authority(tmp_path / "other").invite("member", HOSTS, 1, 60)
    with pytest.raises(FailedPrecondition, match="signs as another authority than the invitation names"):
        AuthorityClient(signer.target).meet(text.authority)


def test_a_server_without_the_right_to_a_certificate_does_not_start(
    signer: runtime.Server, pki: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"services": ("graph",), "data_dir": tmp_path / "member", "enrol_with": signer.target}
    with pytest.raises(FailedPrecondition, match="an invitation is needed"):
        runtime.Server(**options)
    path = invitation(pki, tmp_path)
    good = path.read_text()
    path.write_text(good.replace(good[13:20], "AAAAAAA"))
    with pytest.raises(Unauthenticated, match="is not one that this authority accepts"):
        runtime.Server(enrol_invitation=path, **options)
    path.write_text("junk")
    with pytest.raises(InvalidArgument, match="is not one"):
        runtime.Server(enrol_invitation=path, **options)
    with pytest.raises(InvalidArgument, match="enrol_invitation is given without enrol_with"):
        runtime.Server(services=("graph",), enrol_invitation=path)


def test_a_server_waits_for_an_authority_that_starts_later(
    pki: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with runtime.Server(services=("fleet",), data_dir=tmp_path / "probe") as probe:
        address = probe.address
    started: list[runtime.Server] = []
    path = invitation(pki, tmp_path)

    def start() -> None:
        started.append(runtime.Server(
            services=("graph",), data_dir=tmp_path / "member", enrol_with=f"grpcs://{address}", enrol_invitation=path,
        ))

    thread = threading.Thread(target=start)
    caplog.set_level("INFO")
    thread.start()
    until(lambda: "waits for the authority" in caplog.text, "first attempt")
    with runtime.Server(
        services=("fleet",), data_dir=tmp_path / "signer", authority=pki, tls_cert=pki / "signer.pem",
        tls_key=pki / "signer.key", listen=address,
    ):
        thread.join(WAIT_S)
        assert len(started) == 1
        started[0].stop(0)


def test_machines_pin_the_certificate_of_the_server_that_joined(
    signer: runtime.Server, pki: Path, tmp_path: Path
) -> None:
    token_file = tmp_path / "tokens"
    (tmp_path / "server-token").write_text(tokens.issue(token_file, "server", networks=["127.0.0.0/8"])[1])
    user = tokens.issue(token_file, "machine")[1]
    check = "/pb.WorkerSaver/Check"
    uuid = machine_id_of_text("7a0b3c58-2f4e-4d5a-9f0e-5f0d1a2b3c4d")
    days = 20 / 86400
    with FleetClient(signer.target, Access(token=user, tls=True, ca=(pki / "ca.pem").read_bytes())) as dispatcher:

        def assigned() -> Any:
            try:
                return dispatcher.target(uuid)
            except Unavailable:
                return None

        with runtime.Server(
            services=("fleet",), data_dir=tmp_path / "member", enrol_with=signer.target,
            enrol_invitation=invitation(pki, tmp_path, days), fleet_join=signer.target,
            fleet_join_token_file=tmp_path / "server-token", fleet_lease_s=3, token_file=token_file,
        ) as member:
            port = int(member.address.rsplit(":", 1)[1])

            def reached(other_than: bytes = b"") -> Any:
                """Ask and call; between the two the server may have got another certificate."""
                found = assigned()
                if found is None or found.certificate == other_than:
                    return None
                try:
                    unary(found.address(port), found.access(user), check, wire.fleet.HealthCheckReq())
                except Unavailable:
                    return None
                return found

            found = until(reached, "server in rotation")
            assert found.ip == "127.0.0.1"
            # When it is renewed, machines are told the new one and refuse no longer.
            first = found.certificate
            found = until(lambda: reached(other_than=first), "renewed certificate")
        # A pinned certificate is not taken from anyone else, though the authority vouches for both.
        with pytest.raises(Unavailable):
            unary(signer.target, found.access(user), check, wire.fleet.HealthCheckReq())


def test_commands_make_list_and_revoke(pki: Path, signer: runtime.Server, tmp_path: Path,
                                       capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cert", "invite", "box", "--host", "box.test", "--ca", str(pki)]) == 0
    text = capsys.readouterr().out
    (tmp_path / "text").write_text(text)
    folder = tmp_path / "box"
    assert main(["cert", "request", signer.target, "--out", str(folder), "--invitation", str(tmp_path / "text")]) == 0
    made = [str(folder / f"{name}.pem") for name in ("cert", "key", "ca", "crl")]
    assert capsys.readouterr().out.splitlines() == made
    assert main(["cert", "list", "--ca", str(pki)]) == 0
    listing = capsys.readouterr().out
    assert text.strip() not in listing
    assert f"{text[:12]} used 'box' hosts=box.test" in listing
    leaf = x509.load_pem_x509_certificate((folder / "cert.pem").read_bytes())
    assert f"{leaf.serial_number:x} valid 'box' hosts=box.test" in listing
    assert main(["cert", "revoke", "box", "--ca", str(pki)]) == 0
    capsys.readouterr()
    main(["cert", "list", "--ca", str(pki)])
    assert f"{leaf.serial_number:x} revoked 'box'" in capsys.readouterr().out
