"""Run TensorFlow's servers and programs as forks of one interpreter that has imported TensorFlow already.

Importing takes 5 to 10 s, a fork some milliseconds. Started in the peer interpreter; reads one JSON object a line:
``{"server": {"cluster": ..., "job": ..., "task": ..., "port": ..., "leader": ...}}``, with port 0 for its own and
perhaps the task that leads collectives, or ``{"program": PATH, "arguments": [...]}``, with a ``number`` from 1 on, and
``out`` and ``err``, the files that the fork writes to. Answers each with ``{"number": NUMBER, "pid": PID}`` (number 0,
when it is ready, is this process), and writes ``{"pid": PID, "ended": STATUS}`` when a fork has ended. The forks end
with this process, and this process when its standard input closes.
"""

from __future__ import annotations

import ctypes
import json
import os
import runpy
import selectors
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

PR_SET_PDEATHSIG = 1


def become(command: dict[str, Any]) -> None:
    """Do in a fork what a command says."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for name, stream in (("out", 1), ("err", 2)):
        file = os.open(command[name], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(file, stream)
        os.close(file)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.environ.update(command.get("environment", {}))
    if "server" in command:
        serve(command["server"])
    script = command["program"]
    sys.path[0] = str(Path(script).parent)
    sys.argv = [script, *command["arguments"]]
    runpy.run_path(script, run_name="__main__")


def serve(given: dict[str, Any]) -> None:
    """Be one task of a cluster until killed."""
    import tensorflow.compat.v1 as tf

    config = tf.ConfigProto()
    config.experimental.collective_group_leader = given["leader"]
    server = tf.train.Server(tf.train.ServerDef(
        cluster=tf.train.ClusterSpec(given["cluster"]).as_cluster_def(), job_name=given["job"],
        task_index=given["task"], protocol="grpc", port=given["port"], default_session_config=config))
    print(f"ready {server.target}", flush=True)
    while True:
        signal.pause()


def fork(command: dict[str, Any]) -> int:
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        become(command)
        status = 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
        if isinstance(error.code, str):
            print(error.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)  # without TensorFlow's destructors, which wait for servers


def say(answer: dict[str, Any]) -> None:
    print(json.dumps(answer), flush=True)


def main() -> None:
    import tensorflow.compat.v1 as tf

    tf.disable_v2_behavior()
    woken, wake = os.pipe()
    os.set_blocking(woken, False)
    os.set_blocking(wake, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake)
    say({"number": 0, "pid": os.getpid()})
    rest = b""
    with selectors.DefaultSelector() as selector:
        selector.register(0, selectors.EVENT_READ)
        selector.register(woken, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                chunk = os.read(key.fd, 65536)
                if key.fd == woken:
                    continue
                if not chunk:
                    return
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    command = json.loads(line)
                    say({"number": command["number"], "pid": fork(command)})
            while True:
                try:
                    pid, status = os.waitpid(-1, os.WNOHANG)
                except ChildProcessError:
                    break
                if not pid:
                    break
                say({"pid": pid, "ended": os.waitstatus_to_exitcode(status)})


if __name__ == "__main__":
    main()
