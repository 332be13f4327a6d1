"""Public keys: which ones are strong enough, and how the holder of one shows that he has its private part.

Needs the package ``cryptography``, which the extra ``tls`` installs.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from runtime.errors import Unauthenticated, Unimplemented

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import ec

__all__ = ["check_proof", "key_fingerprint", "make_proof", "require_cryptography", "weakness"]

MIN_RSA_BITS = 2048
_CURVES = ("secp256r1", "secp384r1", "secp521r1")
# So that what is signed here means nothing anywhere else.
_PURPOSE = b"tensor-runtime: renew the certificate of this key for the request with this SHA-256\0"


def require_cryptography(purpose: str) -> None:
    """Raise Unimplemented, with the way out, if ``cryptography`` is not installed."""
    try:
        import cryptography  # noqa: F401
    except ImportError as error:
        raise Unimplemented(
            f"{purpose} needs the package cryptography, which is not installed; pip install 'tensor-runtime[tls]'"
        ) from error


def weakness(key: Any) -> str | None:
    """Return why a public key is not accepted, or None."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa

    if isinstance(key, rsa.RSAPublicKey):
        if key.key_size < MIN_RSA_BITS:
            return f"the RSA key has {key.key_size} bits; expected at least {MIN_RSA_BITS}"
        return None
    if isinstance(key, ec.EllipticCurvePublicKey):
        if key.curve.name not in _CURVES:
            return f"the key's curve is {key.curve.name}; expected P-256, P-384 or P-521"
        return None
    if isinstance(key, (ed25519.Ed25519PublicKey, ed448.Ed448PublicKey)):
        return None
    return "the key is of another kind than RSA, EC, Ed25519 and Ed448"


def key_fingerprint(key: Any) -> str:
    """Return the SHA-256 of a public key's SubjectPublicKeyInfo, in hex."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def make_proof(key: ec.EllipticCurvePrivateKey, request: bytes) -> bytes:
    """Return the proof that a key's holder asks for a new certificate.

    Parameters
    ----------
    key : private key over P-256, P-384 or P-521
        Of the certificate that is to be renewed.
    request : bytes
        The certificate request, as it is sent.
    """
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    return key.sign(_signed(request), ec.ECDSA(hashes.SHA256()))


def check_proof(key: Any, request: bytes, proof: bytes) -> None:
    """Check a proof: ECDSA or RSA-PSS (salt as long as the hash) with SHA-256, Ed25519 or Ed448, by the key's kind.

    A proof can be sent again by whoever saw it; what comes of it is a certificate for the request's own key, which is
    of use to that key's holder alone.

    Raises
    ------
    Unauthenticated
        If it is not the key's.
    """
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

    sha256 = hashes.SHA256()
    try:
        if isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(proof, _signed(request), ec.ECDSA(sha256))
        elif isinstance(key, rsa.RSAPublicKey):
            pss = padding.PSS(mgf=padding.MGF1(sha256), salt_length=padding.PSS.DIGEST_LENGTH)
            key.verify(proof, _signed(request), pss, sha256)
        else:
            key.verify(proof, _signed(request))
    except InvalidSignature:
        raise Unauthenticated("proof is not a signature of request by the key of certificate") from None


def _signed(request: bytes) -> bytes:
    return _PURPOSE + hashlib.sha256(request).digest()
