"""Bearer tokens: who may call, in which role, on which planes.

A file of tokens has one a line. A line is either a token in clear, which may call everything, or the record of a token
that :func:`issue` made: its name, the hash of it, and what it may do. Only the hash is kept; a token of 256 random
bits needs no slower one. The file is read again when it changes, so revoking a token takes a second, not a restart.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import logging
import re
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runtime import durable_files
from runtime.config import ALL_SERVICES
from runtime.edge import permissions
from runtime.errors import Error, FailedPrecondition, InvalidArgument, NotFound, PermissionDenied, Unauthenticated

__all__ = ["Token", "Tokens", "issue", "read_records", "revoke", "token_in_clear"]

logger = logging.getLogger(__name__)

# Shorter tokens fall to guessing; 16 characters of base64 are 96 bits.
MIN_TOKEN_CHARS = 16
# How often the file is looked at for a change.
RELOAD_INTERVAL_S = 1.0
_PREFIX = "trt_"
_RECORD = re.compile(r"(trt_[0-9a-f]{8}) sha256:([0-9a-f]{64})((?: [a-z]+=\S+)*)")


@dataclass(frozen=True)
class Token:
    """What is known of one accepted token.

    Attributes
    ----------
    name : str
        ``trt_`` and eight hex digits; ``clear-`` and eight digits of the hash for a token in clear.
    digest : bytes
        SHA-256 of the token.
    role : str
        One of :data:`runtime.edge.permissions.ROLES`.
    planes : frozenset of str
        The planes that it may call.
    networks : tuple of str
        Networks in which a server that enrols with it may offer addresses.
    """

    name: str
    digest: bytes = field(repr=False)
    role: str = "admin"
    planes: frozenset[str] = frozenset(ALL_SERVICES)
    networks: tuple[str, ...] = ()

    def record(self) -> str:
        """Return the line that stands for the token in a file."""
        fields = [self.name, f"sha256:{self.digest.hex()}", f"role={self.role}"]
        if self.planes != frozenset(ALL_SERVICES):
            fields.append("services=" + ",".join(name for name in ALL_SERVICES if name in self.planes))
        if self.networks:
            fields.append("networks=" + ",".join(self.networks))
        return " ".join(fields)

    def may_call(self, path: str) -> bool:
        """Return whether the token is good for a method, ``/SERVICE/METHOD``."""
        plane = permissions.plane_of(path)
        if plane != "edge" and plane not in self.planes:
            return False
        return self.role == "admin" or self.role in permissions.roles_for(path)


class Tokens:
    """The tokens that a server accepts.

    Parameters
    ----------
    tokens : iterable of str
        Lines as in a file: tokens of at least 16 printable ASCII characters without spaces, or records.
    origin : str
        Where they come from, for messages.

    Raises
    ------
    InvalidArgument
        If there is none, or one is not valid. The text never holds a token.
    """

    def __init__(self, tokens: Iterable[str], origin: str = "the program") -> None:
        self._path: Path | None = None
        self._stamp: tuple[int, int, int] | None = None
        self._next_look = 0.0
        self._clock: Callable[[], float] = time.monotonic
        self.generation = 0
        """Counts the changes of what is accepted."""
        self._set(_parse(tokens, origin))
        if not (self._named or self._clear):
            raise InvalidArgument(f"{origin} holds no token; expected one a line")

    @classmethod
    def read(cls, path: Path) -> Tokens:
        """Return the tokens in a file; empty lines and lines that begin with ``#`` are skipped.

        Raises
        ------
        InvalidArgument
            If the file cannot be read or holds no valid token.
        """
        tokens = cls(_lines(path), f"token_file {path}")
        tokens._path = path
        tokens._stamp = _stamp(path)
        return tokens

    def authorize(self, path: str, metadata: Iterable[Any]) -> Error | None:
        """Return None if a call may go on, else the error that refuses it.

        Parameters
        ----------
        path : str
            ``/SERVICE/METHOD``.
        metadata : iterable of (key, value)
            Of the call.
        """
        if permissions.is_public(path):
            return None
        try:
            token = self.identify(metadata)
        except Unauthenticated as error:
            return error
        if token.may_call(path):
            return None
        planes = ", ".join(sorted(token.planes))
        return PermissionDenied(
            f"the token {token.name} has the role {token.role} for {planes}, which is not good for {path}; "
            "`tensor-runtime token create` makes one that is"
        )

    def identify(self, metadata: Iterable[Any]) -> Token:
        """Return the token that a call's metadata carries.

        Comparisons take the same time for every wrong token of one name.

        Raises
        ------
        Unauthenticated
            If there is none, or it is not accepted.
        """
        value = next((value for key, value in metadata if key == "authorization"), None)
        if value is None:
            raise Unauthenticated("this server asks for a token: send metadata 'authorization: Bearer TOKEN'")
        raw = value.encode("utf-8", "replace") if isinstance(value, str) else bytes(value)
        scheme, _, text = raw.partition(b" ")
        if scheme.lower() != b"bearer":
            raise Unauthenticated("metadata 'authorization' has not the form 'Bearer TOKEN'")
        self.refresh()
        text = text.strip()
        digest = hashlib.sha256(text).digest()
        named = self._named.get(text[: len(_PREFIX) + 8].decode("ascii", "replace"))
        if named is not None and hmac.compare_digest(named.digest, digest):
            return named
        accepted = None
        for known in self._clear:
            if hmac.compare_digest(known.digest, digest):
                accepted = known
        if accepted is None:
            raise Unauthenticated("the token is not one that this server accepts")
        return accepted

    def refresh(self) -> None:
        """Read the file again if it has changed, at most once in ``RELOAD_INTERVAL_S``."""
        now = self._clock()
        if self._path is None or now < self._next_look:
            return
        self._next_look = now + RELOAD_INTERVAL_S
        stamp = _stamp(self._path)
        if stamp == self._stamp:
            return
        try:
            tokens = _parse(_lines(self._path), f"token_file {self._path}")
        except InvalidArgument as error:
            # A file that is being edited must not lock everyone out; what was accepted stays so.
            logger.error("the changed token file cannot be used", extra={"reason": str(error)})
            return
        finally:
            self._stamp = stamp
        self._set(tokens)
        logger.info("read the token file again", extra={"tokens": len(tokens)})

    def _set(self, tokens: list[Token]) -> None:
        self.generation += 1
        self._named = {token.name: token for token in tokens if token.name.startswith(_PREFIX)}
        self._clear = [token for token in tokens if not token.name.startswith(_PREFIX)]


def issue(
    path: Path, role: str, planes: Iterable[str] = ALL_SERVICES, networks: Iterable[str] = ()
) -> tuple[Token, str]:
    """Make a token and add its record to a file, which is made with mode 0600 if it is not there.

    Returns
    -------
    tuple
        The record, and the token itself, which is stored nowhere.

    Raises
    ------
    InvalidArgument
        For a role, plane or network that does not exist.
    FailedPrecondition
        If the file cannot be written.
    """
    name = _PREFIX + secrets.token_hex(4)
    text = f"{name}_{secrets.token_urlsafe(32)}"
    token = _token(name, hashlib.sha256(text.encode()).digest(), {
        "role": role, "services": ",".join(planes), "networks": ",".join(networks),
    }, "the new token")
    with _editing(path) as lines:
        lines.append(token.record())
    return token, text


def revoke(path: Path, name: str) -> None:
    """Take a token's record out of a file.

    Raises
    ------
    NotFound
        If the file has no token of that name.
    FailedPrecondition
        If the file cannot be read or written.
    """
    with _editing(path) as lines:
        kept = [line for line in lines if line.split(" ", 1)[0] != name]
        if len(kept) == len(lines):
            raise NotFound(f"{path} has no token called {name!r}; `tensor-runtime token list` shows those it has")
        lines[:] = kept


@contextlib.contextmanager
def _editing(path: Path) -> Iterator[list[str]]:
    """Give a file's lines to be changed, and put the changed ones in its place in one step."""
    try:
        with durable_files.exclusive(path):
            lines = path.read_text("utf-8").splitlines() if path.exists() else []
            yield lines
            durable_files.replace(path, "".join(line + "\n" for line in lines).encode())
    except OSError as error:
        raise FailedPrecondition(f"{error.filename or path} cannot be changed: {error.strerror}") from error


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidArgument(f"setting token_file: {path} cannot be read: {error}") from error
    lines = (line.strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def read_records(path: Path) -> list[Token]:
    """Return the tokens of a file.

    Raises
    ------
    InvalidArgument
        If it cannot be read, or a line is not valid.
    """
    return _parse(_lines(path), f"token_file {path}")


def token_in_clear(path: Path) -> str | None:
    """Return the first token that a file holds itself and not by its record, or None.

    Raises
    ------
    InvalidArgument
        If it cannot be read, or a line is not valid.
    """
    lines = _lines(path)
    _parse(lines, f"token_file {path}")
    return next((line for line in lines if _RECORD.fullmatch(line) is None), None)


def _parse(lines: Iterable[str], origin: str) -> list[Token]:
    tokens = []
    for number, line in enumerate(lines, 1):
        where = f"token {number} of {origin}"
        record = _RECORD.fullmatch(line)
        if record is not None:
            fields = dict(field.split("=", 1) for field in record[3].split())
            tokens.append(_token(record[1], bytes.fromhex(record[2]), fields, where))
            continue
        if len(line) < MIN_TOKEN_CHARS or not line.isascii() or not line.isprintable() or " " in line:
            raise InvalidArgument(
                f"{where} is not valid: expected at least {MIN_TOKEN_CHARS} printable ASCII characters without spaces, "
                f"or a record of `tensor-runtime token create`, not {len(line)} characters"
            )
        digest = hashlib.sha256(line.encode("ascii")).digest()
        tokens.append(Token(f"clear-{digest.hex()[:8]}", digest))
    return tokens


def _token(name: str, digest: bytes, fields: dict[str, str], where: str) -> Token:
    role = fields.pop("role", "admin")
    if role not in permissions.ROLES:
        raise InvalidArgument(f"{where}: no role is called {role!r}; expected one of {', '.join(permissions.ROLES)}")
    planes = frozenset(fields.pop("services", ",".join(ALL_SERVICES)).split(","))
    for plane in sorted(planes - frozenset(ALL_SERVICES)):
        raise InvalidArgument(f"{where}: no service is called {plane!r}; expected some of {', '.join(ALL_SERVICES)}")
    networks = tuple(text for text in fields.pop("networks", "").split(",") if text)
    for text in networks:
        import ipaddress

        try:
            ipaddress.ip_network(text)
        except ValueError as error:
            raise InvalidArgument(f"{where}: {text!r} is no network: {error}") from None
    if fields:
        raise InvalidArgument(f"{where}: {min(fields)!r} is no field of a token; expected role, services, networks")
    return Token(name, digest, role, planes, networks)
