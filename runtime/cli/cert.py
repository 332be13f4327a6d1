"""``tensor-runtime cert``: an authority of one's own, and certificates for TLS between machines."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runtime.authority.authority import Authority

CA_DAYS = 3650
LEAF_DAYS = 397  # the longest that common verifiers accept
RENEWED_DAYS = 30  # for a certificate that is renewed by itself
INVITATION_HOURS = 24.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of all forms."""
    forms = parser.add_subparsers(dest="form", required=True)
    authority = forms.add_parser("ca", help="make a certificate authority: ca.pem and ca.key")
    authority.add_argument("--out", type=Path, default=Path(), metavar="DIR", help="folder to write to [.]")
    authority.add_argument("--name", default="tensor-runtime CA", help="common name of the authority")
    authority.add_argument("--days", type=int, default=CA_DAYS, help=f"days that it is valid [{CA_DAYS}]")
    leaf = forms.add_parser("leaf", help="make a certificate for a server or a client: NAME.pem and NAME.key")
    leaf.add_argument("name", help="name of the files and common name of the certificate")
    _add_hosts(leaf)
    leaf.add_argument("--out", type=Path, default=None, metavar="DIR", help="folder to write to [that of --ca]")
    leaf.add_argument("--days", type=int, default=LEAF_DAYS, help=f"days that it is valid [{LEAF_DAYS}]")
    for form in (authority, leaf):
        form.add_argument("--force", action="store_true", help="replace files that exist")
    invite = forms.add_parser("invite", help="print an invitation, with which a program gets one certificate")
    invite.add_argument("name", help="common name of the certificate")
    _add_hosts(invite)
    invite.add_argument(
        "--days", type=float, default=RENEWED_DAYS, help=f"days that each certificate is valid [{RENEWED_DAYS}]"
    )
    invite.add_argument(
        "--hours", type=float, default=INVITATION_HOURS,
        help=f"hours in which the invitation must be used [{INVITATION_HOURS:g}]",
    )
    request = forms.add_parser("request", help="get or renew a certificate from a server that signs")
    request.add_argument("server", metavar="SERVER", help="grpcs://HOST:PORT of a server with --authority")
    request.add_argument("--out", type=Path, default=Path(), metavar="DIR",
                         help="folder for key.pem, cert.pem, ca.pem and crl.pem [.]")
    request.add_argument("--invitation", type=Path, default=None, metavar="FILE",
                         help="file with the invitation, - for standard input; not needed to renew")
    revoke = forms.add_parser("revoke", help="revoke certificates, or withdraw an invitation, and write crl.pem")
    revoke.add_argument("which", help="serial number or common name of certificates, or name of an invitation, tri_...")
    listing = forms.add_parser("list", help="show invitations and certificates")
    for form in (leaf, invite, revoke, listing):
        form.add_argument("--ca", type=Path, default=Path(), metavar="DIR", help="folder with ca.pem and ca.key [.]")


def _add_hosts(form: argparse.ArgumentParser) -> None:
    form.add_argument(
        "--host", action="append", default=[], metavar="HOST", help="DNS name or IP address it is for; repeatable"
    )


def run(options: argparse.Namespace) -> int:
    """Do what the form says."""
    return {
        "ca": _make, "leaf": _make, "invite": _invite, "request": _request, "revoke": _revoke, "list": _list,
    }[options.form](options)


def _make(options: argparse.Namespace) -> int:
    from runtime.authority import certificates

    if options.form == "ca":
        paths = certificates.make_authority(options.out, options.name, options.days, force=options.force)
    else:
        out = options.ca if options.out is None else options.out
        paths = certificates.make_leaf(options.ca, out, options.name, options.host, options.days, force=options.force)
        from cryptography import x509

        made = x509.load_pem_x509_certificate(paths[0].read_bytes())
        _authority(options).note(made, options.host or certificates.DEFAULT_HOSTS, options.days)
    for path in paths:
        print(path)
    return 0


def _authority(options: argparse.Namespace) -> Authority:
    from runtime.authority.authority import Authority

    return Authority(options.ca)


def _invite(options: argparse.Namespace) -> int:
    from runtime.authority.certificates import DEFAULT_HOSTS

    hosts = options.host or DEFAULT_HOSTS
    text = _authority(options).invite(options.name, hosts, options.days, options.hours * 3600)
    print(text)
    print(f"{text.name} is good for one certificate for {', '.join(hosts)}, within {options.hours:g} hours; it is not "
          "shown again", file=sys.stderr)
    return 0


def _request(options: argparse.Namespace) -> int:
    from runtime.authority.identity import Identity
    from runtime.client.authority import AuthorityClient
    from runtime.errors import InvalidArgument

    invitation = None
    if options.invitation is not None:
        try:
            invitation = sys.stdin.read() if str(options.invitation) == "-" else options.invitation.read_text("ascii")
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidArgument(f"--invitation {options.invitation} cannot be read: {error}") from error
    identity = Identity(options.out, lambda pem: AuthorityClient(options.server, pem))
    identity.ensure(None if invitation is None else invitation.strip())
    identity.keep()
    for path in (identity.certificate_path, identity.key_path, identity.authority_path, identity.list_path):
        print(path)
    return 0


def _revoke(options: argparse.Namespace) -> int:
    authority = _authority(options)
    if options.which.startswith("tri_"):
        authority.withdraw(options.which)
        print(f"withdrew {options.which}")
        return 0
    for entry in authority.revoke(options.which):
        print(f"revoked {entry.serial} {entry.subject}")
    return 0


def _list(options: argparse.Namespace) -> int:
    entries = _authority(options).entries()
    now = time.time()
    for invitation in entries.invitations.values():
        state = "used" if invitation.used_by else "expired" if invitation.expires < now else "open"
        print(f"{invitation.name} {state} {invitation.subject!r} hosts={','.join(invitation.hosts)} "
              f"until={_date(invitation.expires)}")
    for entry in entries.issued.values():
        state = "revoked" if entry.revoked_at is not None else "expired" if entry.not_after < now else "valid"
        print(f"{entry.serial} {state} {entry.subject!r} hosts={','.join(entry.hosts)} until={_date(entry.not_after)}")
    return 0


def _date(at: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))
