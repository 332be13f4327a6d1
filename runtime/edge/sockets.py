"""Listening addresses: what is there already, why one cannot be had, and cleaning up behind a unix socket."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat

from runtime.edge.auth import split_address
from runtime.errors import Error, Unavailable

# Connections that may wait to be accepted.
BACKLOG = 512


def bind(listen: str) -> tuple[list[socket.socket], str]:
    """Open listening sockets for an address.

    Parameters
    ----------
    listen : str
        ``HOST:PORT`` (port 0: any) or ``unix:PATH``.

    Returns
    -------
    list of socket
        One per address that the host resolves to, all on the same port.
    str
        The address with the real port.

    Raises
    ------
    Unavailable
        If it cannot be had; names the address and the reason.
    """
    if listen.startswith("unix:"):
        path = listen.removeprefix("unix:")
        clear_stale(path)
        unix = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            unix.bind(path)
            # Whoever can open the socket can call: keep it to the owner.
            os.chmod(path, stat.S_IRUSR | stat.S_IWUSR)
            unix.listen(BACKLOG)
        except OSError as error:
            unix.close()
            raise Unavailable(f"cannot listen on {listen}: {error.strerror}") from error
        return [unix], listen
    host, port = split_address(listen)
    opened: list[socket.socket] = []
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise Unavailable(f"cannot listen on {listen}: {host!r} does not resolve: {error}") from error
    try:
        for family, kind, protocol, _, where in dict.fromkeys(found):
            opened.append(_open(family, kind, protocol, (where[0], port, *where[2:])))
            port = int(opened[0].getsockname()[1])
    except OSError as error:
        for one in opened:
            one.close()
        raise refused(listen, port, error) from error
    return opened, f"{listen.rpartition(':')[0]}:{port}"


def _open(family: int, kind: int, protocol: int, where: tuple[object, ...]) -> socket.socket:
    opened = socket.socket(family, kind, protocol)
    try:
        # A port in TIME_WAIT is free; a second listener still is an error, since SO_REUSEPORT stays off.
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        opened.bind(where)
        opened.listen(BACKLOG)
    except BaseException:
        opened.close()
        raise
    return opened


def refused(listen: str, port: int, error: OSError) -> Error:
    """Return the error for an address that the system did not give."""
    if error.errno == errno.EADDRINUSE:
        return Unavailable(
            f"cannot listen on {listen}: port {port} is in use by another process; choose another port, or 0 for any"
        )
    return Unavailable(f"cannot listen on {listen}: {error.strerror}")


def clear_stale(path: str) -> None:
    """Remove the socket file of a server that is gone; refuse one whose server answers, and any other file.

    Raises
    ------
    Unavailable
        If something is there that may not be removed.
    """
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise Unavailable(f"cannot listen on unix:{path}: {error.strerror}") from error
    if not stat.S_ISSOCK(mode):
        raise Unavailable(f"cannot listen on unix:{path}: a file that is no socket is there")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            return
        except OSError:
            pass  # a full backlog or no permission: somebody is there
    raise Unavailable(f"cannot listen on unix:{path}: another server answers there; choose another path")


def remove(address: str) -> None:
    """Remove the file of a unix socket; does nothing for other addresses."""
    if address.startswith("unix:"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(address.removeprefix("unix:"))
