"""``tensor-runtime cert ca|leaf``: certificates for TLS between machines."""

from __future__ import annotations

import argparse
from pathlib import Path

CA_DAYS = 3650
LEAF_DAYS = 397  # the longest that common verifiers accept


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of both forms."""
    forms = parser.add_subparsers(dest="form", required=True)
    authority = forms.add_parser("ca", help="make a certificate authority: ca.pem and ca.key")
    authority.add_argument("--out", type=Path, default=Path(), metavar="DIR", help="folder to write to [.]")
    authority.add_argument("--name", default="tensor-runtime CA", help="common name of the authority")
    authority.add_argument("--days", type=int, default=CA_DAYS, help=f"days that it is valid [{CA_DAYS}]")
    leaf = forms.add_parser("leaf", help="make a certificate for a server or a client: NAME.pem and NAME.key")
    leaf.add_argument("name", help="name of the files and common name of the certificate")
    leaf.add_argument(
        "--host", action="append", default=[], metavar="HOST", help="DNS name or IP address it is for; repeatable"
    )
    leaf.add_argument("--ca", type=Path, default=Path(), metavar="DIR", help="folder with ca.pem and ca.key [.]")
    leaf.add_argument("--out", type=Path, default=None, metavar="DIR", help="folder to write to [that of --ca]")
    leaf.add_argument("--days", type=int, default=LEAF_DAYS, help=f"days that it is valid [{LEAF_DAYS}]")
    for form in (authority, leaf):
        form.add_argument("--force", action="store_true", help="replace files that exist")


def run(options: argparse.Namespace) -> int:
    """Make the files and print their paths."""
    from runtime.edge import certificates

    if options.form == "ca":
        paths = certificates.make_authority(options.out, options.name, options.days, force=options.force)
    else:
        out = options.ca if options.out is None else options.out
        paths = certificates.make_leaf(options.ca, out, options.name, options.host, options.days, force=options.force)
    for path in paths:
        print(path)
    return 0
