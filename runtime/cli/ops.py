"""``tensor-runtime ops``: which op types run here, and which are known only by their definition."""

from __future__ import annotations

import argparse
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("names", nargs="*", metavar="OP", help="only these op types")
    parser.add_argument("--missing", action="store_true", help="only op types that have no kernel")
    parser.add_argument("--tier", type=int, metavar="N",
                        help="only op types of tier N: 1 is what every training script uses, 4 what is rare")
    parser.add_argument("--json", action="store_true", help="write a JSON list instead of a table")


def run(options: argparse.Namespace) -> int:
    """Print one line per op type, in the order of the tiers, and how many have a kernel."""
    import json

    from runtime.errors import InvalidArgument
    from runtime.ops import opdef

    unknown = [name for name in options.names if opdef.lookup(name) is None]
    if unknown:
        raise InvalidArgument(f"no op type is called {unknown[0]!r}; `tensor-runtime ops` lists those that are known")
    rows = [row for row in describe() if _wanted(row, options)]
    if options.json:
        print(json.dumps(rows, indent=1))
        return 0
    width = max((len(row["op"]) for row in rows), default=0) + 1
    section = None
    for row in rows:
        if row["section"] != section:
            section = row["section"]
            print(f"\n{section}")
        stateful = "*" if row["stateful"] else ""
        print(f"  {'+' if row['kernel'] else '-'} {row['op'] + stateful:<{width}}  {row['signature']}")
    with_kernel = sum(row["kernel"] for row in rows)
    print(f"\n{with_kernel} of {len(rows)} have a kernel (+); * keeps state")
    return 0


def _wanted(row: dict[str, Any], options: argparse.Namespace) -> bool:
    return (
        not (options.missing and row["kernel"])
        and options.tier in (None, row["tier"])
        and (not options.names or row["op"] in options.names)
    )


def describe() -> list[dict[str, Any]]:
    """Return what is known of every op type, tier by tier.

    Returns
    -------
    list of dict
        ``op``, ``tier`` (1 to 4, or 0 for the runtime's own), ``section``, ``stateful``, ``kernel`` (whether one is
        registered), ``signature`` (as one line), ``inputs``, ``outputs`` (name to type) and ``attrs`` (name to kind).
    """
    from runtime.ops import opdef, registry

    kernels = registry.registered()
    rows = []
    for name, section in opdef.sections().items():
        definition = opdef.lookup(name)
        assert definition is not None
        inputs = {arg.name: arg_type(arg) for arg in definition.inputs}
        outputs = {arg.name: arg_type(arg) for arg in definition.outputs}
        attrs = {attr.name: attr.kind for attr in definition.attrs.values()}
        rows.append({
            "op": name,
            "tier": int(section.split()[1].rstrip(":")) if section.startswith("Tier ") else 0,
            "section": section,
            "stateful": definition.is_stateful,
            "kernel": name in kernels,
            "signature": f"({_listed(inputs)}) -> ({_listed(outputs)})",
            "inputs": inputs,
            "outputs": outputs,
            "attrs": attrs,
        })
    return rows


def _listed(arguments: dict[str, str]) -> str:
    return ", ".join(f"{name}: {kind}" for name, kind in arguments.items())


def arg_type(arg: Any) -> str:
    """Return the type of an argument as one word: a dtype, an attr, ``N*T`` or ``T...``."""
    if arg.list_attr:
        return f"{arg.list_attr}..."
    kind = arg.type_attr or arg.dtype.label
    text = f"{arg.number_attr}*{kind}" if arg.number_attr else kind
    return f"ref {text}" if arg.is_ref else text
