"""``tensor-runtime trace``: a timeline of steps for trace viewers, and the nodes that took longest."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, NamedTuple

STEPS = 1
TIMEOUT_S = 60.0
TOP = 12


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    from runtime.cli.access_flags import add_access_flags

    parser.epilog = ("The file opens in ui.perfetto.dev and in chrome://tracing. Tracing slows the traced steps a "
                     "little, and no others.")
    parser.add_argument("source", nargs="+", metavar="SOURCE",
                        help="grpc://HOST:PORT, grpcs://HOST:PORT or unix:PATH of a server of this project, whose next "
                             "steps are traced, or files with serialized RunMetadata (or StepStats) messages of any "
                             "server")
    parser.add_argument("--out", type=Path, default=Path("trace.json"), metavar="FILE", help="[trace.json]")
    parser.add_argument("--top", type=int, default=TOP, metavar="N", help=f"how many nodes to list [{TOP}]")
    server = parser.add_argument_group("for a server")
    server.add_argument("--steps", type=int, default=STEPS, metavar="N", help=f"how many steps [{STEPS}]")
    server.add_argument("--session", default="", metavar="HANDLE", help="only steps of this session, as the server's "
                                                                        "log names it")
    server.add_argument("--timeout", type=float, default=TIMEOUT_S, metavar="S",
                        help=f"seconds to wait for the steps; what ended until then is kept [{TIMEOUT_S:g}]")
    add_access_flags(server)


def run(options: argparse.Namespace) -> int:
    """Write the timeline; print where it is and what took longest."""
    import json
    import sys

    from runtime.errors import InvalidArgument
    from runtime.observe.profile import Profile
    from runtime.observe.timeline import chrome_trace

    servers = [source for source in options.source if _is_target(source)]
    if servers and len(options.source) > 1:
        raise InvalidArgument(f"a server is traced by itself: {servers[0]} was given with other sources")
    steps = _from_server(servers[0], options) if servers else [_from_file(Path(source)) for source in options.source]
    if not steps:
        print("no step ended; nothing was written", file=sys.stderr)
        return 1
    try:
        with open(options.out, "w") as file:
            json.dump(chrome_trace([(step.label, step.stats) for step in steps]), file)
    except OSError as error:
        raise InvalidArgument(f"{options.out} cannot be written: {error.strerror}") from None
    print(f"{options.out}: {len(steps)} step{'s' if len(steps) > 1 else ''}; open it in ui.perfetto.dev\n")
    print(Profile((step.stats for step in steps), max(step.peak_bytes for step in steps)).table(options.top))
    return 1 if servers and len(steps) < options.steps else 0


def _is_target(source: str) -> bool:
    return source.startswith(("grpc://", "grpcs://", "unix:"))


class _Step(NamedTuple):
    label: str
    stats: Any
    peak_bytes: int


def _from_server(target: str, options: argparse.Namespace) -> list[_Step]:
    """Return the steps that ended in time; say when these are not all."""
    import sys

    from runtime.cli.access_flags import access_of
    from runtime.client.tracing import trace_steps
    from runtime.errors import DeadlineExceeded

    access = access_of(target, options)
    steps = []
    try:
        for traced in trace_steps(target, access, options.steps, options.session, options.timeout):
            steps.append(_Step(_label(traced), traced.step_stats, traced.peak_bytes))
            if traced.num_dropped_nodes:
                print(f"step {len(steps)}: {traced.num_dropped_nodes} further nodes ran that the trace has no room for",
                      file=sys.stderr)
    except DeadlineExceeded as error:
        print(f"{error.message}; {len(steps)} ended", file=sys.stderr)
    return steps


def _label(traced: Any) -> str:
    wanted = [*traced.fetch, *traced.target]
    shown = ", ".join(wanted[:3]) + (", ..." if len(wanted) > 3 else "")
    return f"{shown or 'nothing'} (session {traced.session_handle})"


def _from_file(path: Path) -> _Step:
    """Return the step in a file that holds StepStats, or RunMetadata with them.

    Raises
    ------
    InvalidArgument
        If the file cannot be read or holds neither.
    """
    from google.protobuf.message import DecodeError

    from runtime import wire
    from runtime.errors import InvalidArgument
    from runtime.observe.profile import peak_bytes

    try:
        data = path.read_bytes()
    except OSError as error:
        raise InvalidArgument(f"{path} cannot be read: {error.strerror}") from None
    for kind in (wire.RunMetadata, wire.StepStats):
        try:
            message = kind.FromString(data)
        except DecodeError:
            continue
        whole = message if isinstance(message, wire.RunMetadata) else wire.RunMetadata(step_stats=message)
        if any(device.node_stats for device in whole.step_stats.dev_stats):
            return _Step(path.name, whole.step_stats, peak_bytes(whole))
    raise InvalidArgument(f"{path} holds no RunMetadata or StepStats message with nodes; run a step with "
                          "RunOptions(trace_level=FULL_TRACE) and save what it returns by SerializeToString()")
