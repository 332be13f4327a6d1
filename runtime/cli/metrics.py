"""``tensor-runtime metrics``: what a server has counted and holds, as text for a system that collects it."""

from __future__ import annotations

import argparse

TIMEOUT_S = 3.0
FORMATS = ("openmetrics", "prometheus", "json")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    from runtime.cli.access_flags import add_access_flags

    parser.epilog = "The status is 1 when the metrics of a plane are missing; standard error says which."
    parser.add_argument("target", nargs="?", metavar="TARGET",
                        help="grpc://HOST:PORT, grpcs://HOST:PORT or unix:PATH of a server of this project. Left out: "
                             "the cluster that tensor-runtime cluster has started, else the default address")
    parser.add_argument("-o", "--output", choices=FORMATS, default=FORMATS[0],
                        help=f"prometheus: its text format 0.0.4, for the textfile collector [{FORMATS[0]}]")
    parser.add_argument("--label", action="append", default=[], metavar="NAME=VALUE",
                        help="put a label on every sample, to tell servers apart; repeatable")
    parser.add_argument("--timeout", type=float, default=TIMEOUT_S, metavar="S",
                        help=f"seconds that the server gets to answer [{TIMEOUT_S:g}]")
    add_access_flags(parser.add_argument_group("for a server that asks who is calling"))


def run(options: argparse.Namespace) -> int:
    """Print the metrics; return 1 when those of a plane are missing."""
    import dataclasses
    import json
    import sys

    from runtime.cli.access_flags import access_of
    from runtime.cli.status import default_target
    from runtime.client.metrics import fetch_metrics
    from runtime.errors import InvalidArgument
    from runtime.observe.metrics import labelled, metrics_text
    from runtime.observe.metrics_service import families_of

    labels = []
    for text in options.label:
        name, separator, value = text.partition("=")
        if not separator:
            raise InvalidArgument(f"--label must be NAME=VALUE, got {text!r}")
        labels.append((name, value))
    if not options.timeout > 0:
        raise InvalidArgument(f"--timeout must be more than 0 seconds, got {options.timeout:g}")
    target = options.target or default_target()
    response = fetch_metrics(target, access_of(target, options), options.timeout)
    families = labelled(families_of(response), labels)
    if options.output == "json":
        told = [{**dataclasses.asdict(family),
                 "samples": [{"labels": dict(sample.labels), "value": sample.value} for sample in family.samples]}
                for family in families]
        print(json.dumps({"families": told, "missing": {one.plane: one.error for one in response.missing}}, indent=2))
    else:
        sys.stdout.write(metrics_text(families, classic=options.output == "prometheus"))
    for missing in response.missing:
        print(f"{target}: the metrics of {missing.plane} are missing: {missing.error}", file=sys.stderr)
    return int(bool(response.missing))
