"""What the file of medium values begins with: what it is, and a proof for those who say that they can read it."""

from __future__ import annotations

import os
import secrets

from runtime.objects.extents import PAGE_BYTES

__all__ = ["HEAD_BYTES", "PROOF_BYTES", "proof_of", "write_head"]

HEAD_BYTES = PAGE_BYTES
"""The head takes the first page."""
PROOF_BYTES = 32

_WHAT = b"tensor-runtime values 1\n"


def write_head(file: int) -> bytes:
    """Write the head of a new file, for the next sync, and return the proof: random bytes that nobody can guess."""
    proof = secrets.token_bytes(PROOF_BYTES)
    os.pwrite(file, (_WHAT + proof).ljust(HEAD_BYTES, b"\0"), 0)
    return proof


def proof_of(file: int) -> bytes | None:
    """Return the proof in the head of a file; None if it is another kind of file."""
    head = os.pread(file, len(_WHAT) + PROOF_BYTES, 0)
    return head[len(_WHAT) :] if head.startswith(_WHAT) and len(head) == len(_WHAT) + PROOF_BYTES else None
