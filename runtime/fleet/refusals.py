"""Why a report, a certificate or an offer is refused, as a word for programs and a sentence for people."""

from __future__ import annotations

__all__ = ["CAUSES", "Refused"]

CAUSES = frozenset({
    # certificates
    "contains_private_key", "malformed", "not_yet_valid", "expired", "weak", "wrong_usage", "untrusted", "revoked",
    "full",
    # offers
    "bad_ip", "not_registered", "ip_mismatch", "unproven",
    # reports
    "bad_uuid", "bad_port", "bad_text", "duplicate_iface", "too_large", "wrong_owner", "peer_mismatch",
})


class Refused(Exception):
    """Content that is not accepted. The call itself succeeds, with an answer that says no.

    Parameters
    ----------
    cause : str
        One of :data:`CAUSES`; travels as trailing metadata ``x-fleet-reason``.
    detail : str
        A sentence that names the field, the value and what would be right. Never holds certificates or tokens.
    """

    def __init__(self, cause: str, detail: str) -> None:
        if cause not in CAUSES:
            raise ValueError(f"{cause!r} is no cause of a refusal")
        super().__init__(f"{cause}: {detail}")
        self.cause = cause
        self.detail = detail
