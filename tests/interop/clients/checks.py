"""What every client program shares: named checks, run against each server, one JSON line for each answer.

Usage of a client program: ``PROGRAM.py NAME=TARGET...``. Every check is called with every target. It returns what it
saw, in a form that JSON can hold, and the tests say what is right: a check that raises is a failed check.
"""

from __future__ import annotations

import json
import os
import re
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow.compat.v1 as tf

CHECK_TIMEOUT_S = 40.0
CALL_TIMEOUT_MS = 20_000
# What the client's library and TensorFlow's server append to a message, and differs from call to call.
APPENDED = re.compile(r"\n(Additional GRPC error information|Recent warning and error logs:).*", re.DOTALL)

Check = Callable[[str], Any]
checks: dict[str, Check] = {}
not_for: dict[str, set[str]] = {}


def check(function: Check) -> Check:
    """Register a check under its name."""
    checks[function.__name__] = function
    return function


def skip(server: str) -> Callable[[Check], Check]:
    """Spare a server a check: one that it does not survive, or that it has no answer to."""

    def mark(function: Check) -> Check:
        not_for.setdefault(function.__name__, set()).add(server)
        return function

    return mark


def session(target: str, graph: tf.Graph, config: tf.ConfigProto | None = None, **fields: Any) -> tf.Session:
    """Open a session whose calls all have a deadline."""
    settings = tf.ConfigProto(operation_timeout_in_ms=CALL_TIMEOUT_MS, **fields)
    if config is not None:
        settings.MergeFrom(config)
    return tf.Session(target, graph=graph, config=settings)


def failure(function: Callable[..., Any], *args: Any, **kwargs: Any) -> dict[str, Any]:
    """Call a function that is to fail, and return the code and the message as the server gave it.

    The Python client rewrites messages to say where in the program a node was made; the error it caught is the
    context of the one it raises.
    """
    try:
        returned = function(*args, **kwargs)
    except tf.errors.OpError as error:
        cause = error.__context__
        raw = cause if isinstance(cause, tf.errors.OpError) else error
        return {"code": raw.error_code, "message": APPENDED.sub("", raw.message)}
    return {"code": 0, "message": f"no error, but {returned!r}"}


def plain(value: Any) -> Any:
    """Return a fetched value in a form that JSON can hold."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if isinstance(value, complex):
        return [value.real, value.imag]
    return value


def wait_for(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    """Wait until a condition holds; return whether it came to hold in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


class Background:
    """A call in a thread of its own, whose end may be waited for."""

    def __init__(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        self.value: Any = None
        self.started = time.monotonic()
        self.seconds = float("inf")

        def work() -> None:
            self.value = failure_or_value(function, *args, **kwargs)
            self.seconds = time.monotonic() - self.started

        self.thread = threading.Thread(target=work, daemon=True)
        self.thread.start()

    def result(self, seconds: float = 20.0) -> Any:
        self.thread.join(seconds)
        if self.thread.is_alive():
            raise TimeoutError(f"the call did not return within {seconds} s")
        return self.value


def failure_or_value(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Return what a function returns, or the error that it raises as :func:`failure` shows it."""
    found: list[Any] = []
    error = failure(lambda: found.append(function(*args, **kwargs)))
    return plain(found[0]) if found else error


def _run_one(name: str, server: str, target: str) -> dict[str, Any]:
    line: dict[str, Any] = {"check": name, "server": server}

    def work() -> None:
        started = time.monotonic()
        try:
            line["value"] = plain(checks[name](target))
        except BaseException:
            line["error"] = traceback.format_exc()
        line["seconds"] = round(time.monotonic() - started, 3)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(CHECK_TIMEOUT_S)
    if thread.is_alive():
        frames = sys._current_frames().get(thread.ident or 0)
        where = "".join(traceback.format_stack(frames)) if frames else ""
        return {"check": name, "server": server, "error": f"not done within {CHECK_TIMEOUT_S} s\n{where}"}
    return line


def main() -> None:
    """Run the checks that ``TENSOR_RUNTIME_CHECKS`` names (all without it) against every target."""
    only = [name for name in os.environ.get("TENSOR_RUNTIME_CHECKS", "").split(",") if name]
    servers = [argument.split("=", 1) for argument in sys.argv[1:]]
    for name in only or checks:
        for server, target in servers:
            if server in not_for.get(name, ()):
                continue
            print(json.dumps(_run_one(name, server, target)), flush=True)
    # A check that hangs has left a thread behind, and TensorFlow's threads do not always let go of a process.
    sys.stdout.flush()
    os._exit(0)
