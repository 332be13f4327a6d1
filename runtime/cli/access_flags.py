"""The flags that say how to get into a server, shared by the commands that call one."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runtime.client.access import Access


def add_access_flags(parser: Any, token_file_flag: str = "--token-file") -> None:
    """Give a parser, or a group of one, the flags.

    Parameters
    ----------
    parser : argument parser or group
    token_file_flag : str
        Another name, where ``--token-file`` means something else.
    """
    parser.add_argument("--token", help="sent with the call; other users of this machine see it among its processes")
    parser.add_argument(token_file_flag, dest="access_token_file", type=Path, metavar="FILE",
                        help="file whose first token is sent with the call")
    parser.add_argument("--ca", metavar="FILE", help="PEM file of authorities to trust")
    parser.add_argument("--cert", metavar="FILE", help="PEM file of this client's certificate")
    parser.add_argument("--key", metavar="FILE", help="PEM file of its key")
    parser.add_argument("--server-name", metavar="NAME", help="name in the server's certificate")


def access_of(target: str, options: argparse.Namespace) -> Access:
    """Return what the flags say for a target.

    Raises
    ------
    InvalidArgument
        If they contradict each other or a file cannot be read.
    """
    from runtime.client.access import Access

    return Access.of(target, token_of(options), None, options.ca, options.cert, options.key, options.server_name)


def token_of(options: argparse.Namespace) -> str | None:
    """Return the token that the flags give, or None.

    Raises
    ------
    InvalidArgument
        If they give two, or the file cannot be read or has none in clear.
    """
    given: str | None = options.token
    path: Path | None = options.access_token_file
    if path is None:
        return given
    from runtime.edge.tokens import token_in_clear
    from runtime.errors import InvalidArgument

    if given is not None:
        raise InvalidArgument("a token and a file with one are given; one of both is wanted")
    token = token_in_clear(path)
    if token is None:
        raise InvalidArgument(f"{path} holds no token in clear: the record of one is of no use to its caller")
    return token
