"""The flags that say how to get into a server, shared by the commands that call one."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runtime.client.access import Access


def add_access_flags(parser: Any) -> None:
    """Give a parser, or a group of one, the flags."""
    parser.add_argument("--token", help="sent with the call")
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

    return Access.of(target, options.token, None, options.ca, options.cert, options.key, options.server_name)
