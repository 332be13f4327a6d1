"""``tensor-runtime token create|list|revoke``: bearer tokens with a role."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from runtime.config import ALL_SERVICES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of all forms."""
    from runtime.edge.permissions import ROLES

    forms = parser.add_subparsers(dest="form", required=True)
    create = forms.add_parser("create", help="make a token, print it once, and add its hash to the file")
    create.add_argument("--role", choices=ROLES, default="user", help="what it is good for [user]")
    create.add_argument(
        "--services", default=",".join(ALL_SERVICES), metavar="LIST", help="the services that it may call [all]"
    )
    create.add_argument(
        "--network", action="append", default=[], metavar="NET",
        help="network in which a server that enrols with it may offer its address; repeatable",
    )
    forms.add_parser("list", help="show the tokens of the file: names, roles, services")
    revoke = forms.add_parser("revoke", help="take a token out of the file; servers notice within a second")
    revoke.add_argument("name", help="what `token list` calls it: trt_ and eight hex digits")
    for form in forms.choices.values():
        form.add_argument(
            "--file", type=Path, default=None, metavar="FILE",
            help="file of tokens [the setting token_file, else tokens in the data directory]",
        )


def run(options: argparse.Namespace) -> int:
    """Make, show or revoke."""
    from runtime.edge import tokens

    path = _file(options.file)
    if options.form == "create":
        planes = ALL_SERVICES if options.services == "all" else tuple(options.services.split(","))
        token, text = tokens.issue(path, options.role, planes, options.network)
        print(text)
        print(f"{token.name} is in {path}; it is not shown again", file=sys.stderr)
        return 0
    if options.form == "revoke":
        tokens.revoke(path, options.name)
        print(f"revoked {options.name}")
        return 0
    for token in tokens.read_records(path):
        networks = f" networks={','.join(token.networks)}" if token.networks else ""
        services = ",".join(name for name in ALL_SERVICES if name in token.planes)
        print(f"{token.name} role={token.role} services={services}{networks}")
    return 0


def _file(given: Path | None) -> Path:
    from runtime import config

    if given is not None:
        return given
    settings = config.load().settings
    return settings.token_file or settings.data_dir / "tokens"
