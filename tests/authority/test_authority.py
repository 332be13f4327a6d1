"""Who gets a certificate: invitations, requests, renewals, revocation, and what survives."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from runtime.authority.authority import Authority, InvitationText
from runtime.authority.certificates import make_authority
from runtime.authority.keys import make_proof
from runtime.authority.revocation import RevocationLists
from runtime.errors import FailedPrecondition, InvalidArgument, NotFound, PermissionDenied, Unauthenticated

HOUR = 3600.0


class Clock:
    def __init__(self) -> None:
        import time

        self.now = time.time()

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def authority(tmp_path: Path, clock: Clock) -> Authority:
    make_authority(tmp_path, "test CA", 100)
    return Authority(tmp_path, clock)


def request(key: object, hosts: tuple[str, ...] = ()) -> bytes:
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    if hosts:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(host) for host in hosts]), False)
    digest = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(key, digest).public_bytes(Encoding.DER)  # type: ignore[arg-type]


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def invited(authority: Authority, days: float = 30, valid_s: float = HOUR) -> InvitationText:
    return authority.invite("one", ["one.test", "10.0.0.1"], days, valid_s)


def test_an_invitation_gives_a_certificate_with_its_names(authority: Authority) -> None:
    key = new_key()
    text = InvitationText.parse(str(invited(authority)))
    assert text.authority == authority.fingerprint
    leaf = x509.load_pem_x509_certificate(authority.enrol(text.name, text.secret, request(key)))
    leaf.verify_directly_issued_by(x509.load_pem_x509_certificate(authority.pem))
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["one.test"]
    assert list(map(str, names.get_values_for_type(x509.IPAddress))) == ["10.0.0.1"]
    assert leaf.public_key() == key.public_key()


def test_an_invitation_is_good_for_one_key_which_may_ask_again(authority: Authority) -> None:
    text, key = invited(authority), new_key()
    first = authority.enrol(text.name, text.secret, request(key))
    assert authority.enrol(text.name, text.secret, request(key)) == first
    with pytest.raises(Unauthenticated, match="has been used, by another key"):
        authority.enrol(text.name, text.secret, request(new_key()))


def test_wrong_unknown_and_expired_invitations_get_nothing(authority: Authority, clock: Clock) -> None:
    text, asked = invited(authority), request(new_key())
    for name, secret in ((text.name, "x" * 43), ("tri_00000000", text.secret), ("", "")):
        with pytest.raises(Unauthenticated, match="is not one that this authority accepts"):
            authority.enrol(name, secret, asked)
    clock.now += HOUR + 1
    with pytest.raises(Unauthenticated, match="has expired"):
        authority.enrol(text.name, text.secret, asked)
    assert authority.entries().issued == {}


def test_a_withdrawn_invitation_gets_nothing(authority: Authority) -> None:
    text = invited(authority)
    authority.withdraw(text.name)
    with pytest.raises(Unauthenticated):
        authority.enrol(text.name, text.secret, request(new_key()))
    with pytest.raises(NotFound, match=text.name):
        authority.withdraw(text.name)


def test_names_that_were_not_promised_are_refused(authority: Authority) -> None:
    text, key = invited(authority), new_key()
    with pytest.raises(PermissionDenied, match="'two.test', which the invitation tri_.* does not give"):
        authority.enrol(text.name, text.secret, request(key, ("one.test", "two.test")))
    assert authority.enrol(text.name, text.secret, request(key, ("one.test",)))


def test_bad_requests_are_refused_and_use_nothing_up(authority: Authority) -> None:
    text = invited(authority)
    good = request(new_key())
    forged = bytearray(good)
    forged[-1] ^= 1
    weak = rsa.generate_private_key(65537, 1024)
    for bad, said in (
        (b"", "request has 0 bytes"),
        (bytes(20_000), "request has 20000 bytes"),
        (b"\x30\x03abc", "no certificate request"),
        (good[:-10], "no certificate request"),
        (bytes(forged), "not signed by its own key"),
        (request(weak), "1024 bits"),
    ):
        with pytest.raises(InvalidArgument, match=said):
            authority.enrol(text.name, text.secret, bad)
    assert authority.enrol(text.name, text.secret, good)


def test_invitations_that_make_no_sense_are_refused(authority: Authority) -> None:
    for name, hosts, days, valid_s, said in (
        ("", ["a"], 1, 1, "name ''"),
        ("a\nb", ["a"], 1, 1, "name"),
        ("a", [], 1, 1, "0 hosts"),
        ("a", ["b ü"], 1, 1, "host"),
        ("a", ["b"], 0, 1, "days 0"),
        ("a", ["b"], float("nan"), 1, "days nan"),
        ("a", ["b"], 1, -1, "valid_s -1"),
    ):
        with pytest.raises(InvalidArgument, match=said):
            authority.invite(name, hosts, days, valid_s)
    for text in ("", "tri_", "trt_12345678_abc", "tri_12345678_" + "a" * 43):
        with pytest.raises(InvalidArgument, match="is not one"):
            InvitationText.parse(text)


@pytest.mark.parametrize("kind", ["ec", "rsa", "ed25519"])
def test_the_holder_of_a_certificate_gets_the_next_one(authority: Authority, kind: str) -> None:
    from cryptography.hazmat.primitives.asymmetric import padding

    text = invited(authority)
    asked: bytes
    if kind == "ec":
        key = new_key()
        asked = request(key)
        proof = make_proof(key, asked)
    else:
        import hashlib

        purpose = b"tensor-runtime: renew the certificate of this key for the request with this SHA-256\0"
        if kind == "rsa":
            rsa_key = rsa.generate_private_key(65537, 2048)
            asked = request(rsa_key)
            pss = padding.PSS(mgf=padding.MGF1(hashes.SHA256()), salt_length=padding.PSS.DIGEST_LENGTH)
            proof = rsa_key.sign(purpose + hashlib.sha256(asked).digest(), pss, hashes.SHA256())
        else:
            ed_key = ed25519.Ed25519PrivateKey.generate()
            asked = request(ed_key)
            proof = ed_key.sign(purpose + hashlib.sha256(asked).digest())
    first = authority.enrol(text.name, text.secret, asked)
    second = authority.renew(first, asked, proof)
    assert second != first
    issued = authority.entries().issued
    renewed = issued[f"{x509.load_pem_x509_certificate(second).serial_number:x}"]
    assert renewed.renews == f"{x509.load_pem_x509_certificate(first).serial_number:x}"
    assert (renewed.subject, renewed.hosts, renewed.days) == ("one", ("one.test", "10.0.0.1"), 30)


def test_a_renewal_needs_the_key_and_a_certificate_in_force(authority: Authority, clock: Clock, tmp_path: Path) -> None:
    text, key = invited(authority), new_key()
    first = authority.enrol(text.name, text.secret, request(key))
    asked = request(key)
    with pytest.raises(Unauthenticated, match="not a signature of request"):
        authority.renew(first, asked, make_proof(new_key(), asked))
    with pytest.raises(Unauthenticated, match="not a signature of request"):
        authority.renew(first, asked, make_proof(key, request(key)))
    make_authority(tmp_path / "other", "other", 10)
    stranger = Authority(tmp_path / "other", clock)
    theirs = invited(stranger)
    foreign = stranger.enrol(theirs.name, theirs.secret, asked)
    with pytest.raises(Unauthenticated, match="not known to this authority"):
        authority.renew(foreign, asked, make_proof(key, asked))
    with pytest.raises(InvalidArgument, match="certificate cannot be read"):
        authority.renew(b"junk", asked, make_proof(key, asked))
    clock.now += 31 * 86400
    with pytest.raises(Unauthenticated, match="has expired"):
        authority.renew(first, asked, make_proof(key, asked))


def test_revoked_certificates_are_on_the_list_and_not_renewed(authority: Authority, tmp_path: Path) -> None:
    text, key = invited(authority), new_key()
    first = authority.enrol(text.name, text.secret, request(key))
    leaf = x509.load_pem_x509_certificate(first)
    authority.revocation_list()
    lists = RevocationLists(tmp_path / "crl.pem", "tls_crl")
    assert not lists.contains(leaf)
    (revoked,) = authority.revoke(f"{leaf.serial_number:x}")
    assert revoked.subject == "one"
    assert lists.contains(leaf)
    asked = request(key)
    with pytest.raises(Unauthenticated, match="is revoked"):
        authority.renew(first, asked, make_proof(key, asked))
    with pytest.raises(Unauthenticated, match="is revoked"):
        authority.enrol(text.name, text.secret, asked)
    with pytest.raises(NotFound, match="'nobody'"):
        authority.revoke("nobody")
    assert [one.serial for one in authority.revoke("one")] == [revoked.serial]


def test_the_list_is_made_anew_before_it_ends(authority: Authority, clock: Clock) -> None:
    first = authority.revocation_list()
    clock.now += 10 * 86400
    assert authority.revocation_list() == first
    clock.now += 10 * 86400
    second = x509.load_pem_x509_crl(authority.revocation_list())
    assert second.next_update_utc is not None
    assert second.next_update_utc.timestamp() > clock.now + 29 * 86400
    numbers = [one.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
               for one in (x509.load_pem_x509_crl(first), second)]
    assert numbers[1] == numbers[0] + 1


def test_keys_that_race_for_one_invitation_get_one_certificate(authority: Authority, tmp_path: Path) -> None:
    text = invited(authority)
    outcomes: list[object] = []

    def ask() -> None:
        own = Authority(tmp_path)
        try:
            outcomes.append(own.enrol(text.name, text.secret, request(new_key())))
        except Unauthenticated as error:
            outcomes.append(error)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(isinstance(outcome, bytes) for outcome in outcomes) == 1
    assert len(authority.entries().issued) == 1


def test_secrets_are_not_kept(authority: Authority, tmp_path: Path) -> None:
    text = invited(authority)
    assert text.secret not in (tmp_path / "issued.json").read_text()
    assert text.secret not in repr(text)
    assert (tmp_path / "issued.json").stat().st_mode & 0o777 == 0o600


def test_a_ledger_that_cannot_be_used_is_refused_and_left_alone(authority: Authority, tmp_path: Path) -> None:
    invited(authority)
    path = tmp_path / "issued.json"
    stored = json.loads(path.read_text())
    for text, said in (
        ("{", "is damaged"), (json.dumps({**stored, "version": 2}), "has the version 2"),
        (json.dumps({**stored, "issued": [{"serial": "1"}]}), "is damaged"),
    ):
        path.write_text(text)
        with pytest.raises(FailedPrecondition, match=said):
            invited(authority)
        assert path.read_text() == text


def test_what_is_of_no_use_any_more_is_forgotten(authority: Authority, clock: Clock) -> None:
    text, key = invited(authority, days=1), new_key()
    authority.enrol(text.name, text.secret, request(key))
    clock.now += 29 * 86400
    invited(authority)
    assert text.name in authority.entries().invitations
    clock.now += 3 * 86400
    invited(authority)
    entries = authority.entries()
    assert text.name not in entries.invitations
    assert entries.issued == {}
