"""What the file of medium values begins with: what it is, and a proof for those who say that they can read it."""

from __future__ import annotations

import hmac
import os
import secrets
import stat

from runtime.objects.extents import PAGE_BYTES

__all__ = ["HEAD_BYTES", "PROOF_BYTES", "answer_to", "open_values", "proof_of", "write_head"]

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


def open_values(path: str, device: int, number: int, flags: int) -> tuple[int, bytes] | None:
    """Open the file that another process tells of.

    Parameters
    ----------
    device, number : int
        Of the file system, and of the file in it.
    flags : int
        ``os.O_RDONLY`` or ``os.O_RDWR``.

    Returns
    -------
    tuple of (int, bytes) or None
        The descriptor, and the proof in the head. None where another file lies there, or one that this process may not
        open so.
    """
    try:
        # Whatever the path stands for, opening it does not wait.
        file = os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
    except (OSError, ValueError):
        return None
    proof = None
    try:
        status = os.fstat(file)
        if stat.S_ISREG(status.st_mode) and (status.st_dev, status.st_ino) == (device, number):
            proof = proof_of(file)
    except OSError:
        pass
    if proof is None:
        os.close(file)
        return None
    return file, proof


def answer_to(who: bytes, challenges: bytes, proof: bytes) -> bytes:
    """Return what shows that ``who`` knows the proof, without telling it: HMAC-SHA-256 of its name and challenges."""
    return hmac.digest(proof, who + challenges, "sha256")
