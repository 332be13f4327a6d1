"""Which certificates a server may enrol with."""

from __future__ import annotations

import datetime
import time
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from runtime.errors import InvalidArgument
from runtime.fleet.certificates import MAX_CERTIFICATE_BYTES, CertificatePolicy, read
from runtime.fleet.refusals import Refused
from tests.fleet.certificates import der, key_pem, make, pem, small_rsa_key


def cause(data: bytes, policy: CertificatePolicy | None = None) -> str:
    with pytest.raises(Refused) as caught:
        (policy or CertificatePolicy(None, None, time.time)).check(data)
    return caught.value.cause


def accepted(data: bytes, policy: CertificatePolicy | None = None) -> str:
    return (policy or CertificatePolicy(None, None, time.time)).check(data).fingerprint


def test_one_identity_for_pem_and_der() -> None:
    certificate, _ = make(ips=["10.0.0.1"])
    assert accepted(pem(certificate)) == accepted(der(certificate)) == certificate.fingerprint(hashes.SHA256()).hex()
    described = read(pem(certificate))
    assert described.ips == {"10.0.0.1"}
    assert described.as_sent == pem(certificate)
    assert described.leaf == der(certificate)


def test_self_signed_leaf_that_is_an_authority_is_taken() -> None:
    accepted(pem(make(is_ca=True)[0]))


@pytest.mark.parametrize("key", [
    ed25519.Ed25519PrivateKey.generate(), ed448.Ed448PrivateKey.generate(), ec.generate_private_key(ec.SECP521R1()),
], ids=["ed25519", "ed448", "p521"])
def test_strong_keys(key: Any) -> None:
    now = datetime.datetime.now(datetime.UTC)
    subject = x509.Name([])
    certificate = (
        x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(key.public_key())
        .serial_number(1).not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA512() if isinstance(key, ec.EllipticCurvePrivateKey) else None)
    )
    accepted(der(certificate))


def test_what_is_refused_and_why() -> None:
    good, key = make()
    text = pem(good)
    assert cause(b"") == "malformed"
    assert cause(text[:-60]) == "malformed"
    assert cause(der(good)[:-5]) == "malformed"
    assert cause(der(good) + b"x") == "malformed"
    assert cause(der(good) * 2) == "malformed"
    assert cause(text + b"more") == "malformed"
    assert cause(text * 10) == "malformed"
    assert cause(text.replace(b"\nM", b"\n!", 1)) == "malformed"
    assert cause(b"x" * (MAX_CERTIFICATE_BYTES + 1)) == "malformed"
    assert cause(text + key_pem(key)) == "contains_private_key"
    assert cause(key_pem(key)) == "contains_private_key"
    assert cause(pem(make(days=(-10, -1))[0])) == "expired"
    assert cause(pem(make(days=(1, 10))[0])) == "not_yet_valid"
    assert cause(pem(make(key=small_rsa_key())[0])) == "weak"
    assert cause(pem(make(key=ec.generate_private_key(ec.SECP256K1()))[0])) == "weak"
    assert cause(pem(make(usage=[ExtendedKeyUsageOID.CLIENT_AUTH])[0])) == "wrong_usage"


def test_dsa_keys_are_weak() -> None:
    assert cause(pem(make(key=dsa.generate_private_key(2048))[0])) == "weak"


def test_refusals_hold_no_secret() -> None:
    certificate, key = make()
    with pytest.raises(Refused) as caught:
        read(pem(certificate) + key_pem(key))
    for line in key_pem(key).decode().splitlines()[1:-1]:
        assert line not in str(caught.value)


def test_clocks_may_differ_by_minutes() -> None:
    accepted(pem(make(days=(2 / 1440, 1))[0]))
    accepted(pem(make(days=(-1, -2 / 1440))[0]))


@pytest.fixture
def authority(tmp_path: Path) -> tuple[x509.Certificate, Any, Path]:
    certificate, key = make("authority", is_ca=True)
    path = tmp_path / "ca.pem"
    path.write_bytes(pem(certificate))
    return certificate, key, path


def test_chain_must_lead_to_the_authority(authority: tuple[x509.Certificate, Any, Path]) -> None:
    root, root_key, path = authority
    policy = CertificatePolicy(path, None, time.time)
    direct, _ = make(issuer=root, issuer_key=root_key)
    accepted(pem(direct), policy)
    middle, middle_key = make("middle", issuer=root, issuer_key=root_key, is_ca=True)
    leaf, _ = make(issuer=middle, issuer_key=middle_key)
    accepted(pem(leaf, middle), policy)
    assert cause(pem(leaf), policy) == "untrusted"
    stranger, stranger_key = make("authority", is_ca=True)
    assert cause(pem(make(issuer=stranger, issuer_key=stranger_key)[0]), policy) == "untrusted"
    assert cause(pem(make()[0]), policy) == "untrusted"
    # A leaf may not sign another.
    plain, plain_key = make("plain", issuer=root, issuer_key=root_key)
    assert cause(pem(make(issuer=plain, issuer_key=plain_key)[0], plain), policy) == "untrusted"
    old, old_key = make("old", issuer=root, issuer_key=root_key, is_ca=True, days=(-9, -1))
    assert cause(pem(make(issuer=old, issuer_key=old_key)[0], old), policy) in ("untrusted", "expired")


def test_revoked_certificates_are_refused(authority: tuple[x509.Certificate, Any, Path], tmp_path: Path) -> None:
    root, root_key, path = authority
    leaf, _ = make(issuer=root, issuer_key=root_key)
    lists = tmp_path / "crl.pem"

    def write(*serials: int) -> None:
        now = datetime.datetime.now(datetime.UTC)
        builder = x509.CertificateRevocationListBuilder().issuer_name(root.subject).last_update(now).next_update(
            now + datetime.timedelta(days=1)
        )
        for serial in serials:
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now).build()
            builder = builder.add_revoked_certificate(entry)
        fresh = tmp_path / "fresh.pem"
        fresh.write_bytes(builder.sign(root_key, hashes.SHA256()).public_bytes(Encoding.PEM))
        fresh.replace(lists)

    write(leaf.serial_number + 1)
    policy = CertificatePolicy(path, lists, time.time)
    described = policy.check(pem(leaf))
    assert not policy.is_revoked(described)
    write(leaf.serial_number + 1, leaf.serial_number)
    assert cause(pem(leaf), policy) == "revoked"
    assert policy.is_revoked(described)


def test_files_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    (tmp_path / "bad.pem").write_text("nothing")
    with pytest.raises(InvalidArgument, match="bad.pem"):
        CertificatePolicy(tmp_path / "bad.pem", None, time.time)
    with pytest.raises(InvalidArgument, match="absent.pem"):
        CertificatePolicy(None, tmp_path / "absent.pem", time.time)
