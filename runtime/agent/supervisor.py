"""The process beside one command: starts it, keeps its output, holds its limits, ends all that it has started.

Run as a program, with the command's folder: ``python supervisor.py FOLDER``. It imports nothing of this project. Most
of its start is Python's own, so an agent keeps a process that is past that and forks one for each command:
``python supervisor.py --launch``, which is asked on its standard input. In a command's folder are

- ``spec.json``: what to run, written by the agent;
- ``supervisor.json``: who supervises, written once: a second supervisor for the same folder ends at once;
- ``output``: records of the command's lines (a byte for the stream, four for the length, the text);
- ``result.json``: how it ended, written last.

SIGTERM ends the command. The agent holds a lock while it lives; a command whose agent stays away is ended, too.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import resource
import selectors
import signal
import socket
import struct
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any, NoReturn

RECORD = struct.Struct("<cI")
OUT, ERR = b"O", b"E"
MAX_LINE = 64 << 10
READ_BYTES = 256 << 10
TICK_S = 0.1
PROCESS_TICK_S = 0.02
# How often it is looked whether the agent lives, and the tree for what it uses.
AGENT_CHECK_S = 1.0
# How soon supervisors that have ended are collected by the process that forked them.
REAP_S = 1.0
MAX_PATH = 1 << 16
USE_CHECK_S = 0.2
# What a command has left behind when it ends gets this long, not the whole grace.
LEFTOVERS_S = 1.0
_F_SETPIPE_SZ = 1031
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_PAGE = os.sysconf("SC_PAGE_SIZE")

_libc = ctypes.CDLL(None, use_errno=True)


class Spool:
    """The file of lines. What is beyond the limit is left out, with a line that says so."""

    def __init__(self, path: Path, limit: int) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._limit = limit
        self._kept = 0
        self.is_full = False
        self._parts: list[bytes] = []

    def line(self, stream: bytes, text: bytes, always: bool = False) -> None:
        """Keep a line."""
        if not always:
            if self.is_full:
                return
            self._kept += len(text)
            if self._limit and self._kept > self._limit:
                self.is_full = True
                stream, text = ERR, b"output beyond %d bytes is left out" % self._limit
        self._parts.append(RECORD.pack(stream, len(text)) + text)

    def write(self) -> None:
        """Write what has come; the reader takes whole records only."""
        data = memoryview(b"".join(self._parts))
        self._parts.clear()
        while data:
            data = data[os.write(self._file, data) :]


class Stream:
    """One pipe of the command, cut into lines."""

    def __init__(self, name: bytes, pipe: int, spool: Spool) -> None:
        self.name = name
        self.pipe = pipe
        self._spool = spool
        self._rest = b""
        os.set_blocking(pipe, False)
        # Where it may not be larger, the command waits for its reader more often.
        with contextlib.suppress(OSError):
            fcntl.fcntl(pipe, _F_SETPIPE_SZ, READ_BYTES)

    def read(self) -> bool:
        """Take what is there; return False at the end."""
        try:
            data = os.read(self.pipe, READ_BYTES)
        except BlockingIOError:
            return True
        if not data:
            return False
        if self._spool.is_full:
            self._rest = b""
            return True
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        for line in lines:
            self._line(line)
        while len(self._rest) > MAX_LINE:
            piece = self._piece(self._rest)
            self._spool.line(self.name, piece)
            self._rest = self._rest[len(piece) :]
        return True

    def end(self) -> None:
        """Keep what has come after the last line break."""
        if self._rest:
            self._line(self._rest)
            self._rest = b""

    def _line(self, line: bytes) -> None:
        while len(line) > MAX_LINE:
            piece = self._piece(line)
            self._spool.line(self.name, piece)
            line = line[len(piece) :]
        self._spool.line(self.name, line)

    @staticmethod
    def _piece(line: bytes) -> bytes:
        """Return the begin of a long line, not cut within a character."""
        end = MAX_LINE
        while end > MAX_LINE - 3 and line[end] & 0xC0 == 0x80:
            end -= 1
        return line[:end]


def main(folder: Path) -> int:
    """Supervise the command of a folder."""
    claim = folder / f"supervisor.json.{os.getpid()}"
    claim.write_text(json.dumps({"pid": os.getpid(), "started": _started(os.getpid())}))
    try:
        os.link(claim, folder / "supervisor.json")
    except FileExistsError:
        return 3
    finally:
        claim.unlink()
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    spec = json.loads((folder / "spec.json").read_text())
    spool = Spool(folder / "output", spec["output_limit"])
    try:
        result = Supervisor(folder, spec, spool).run()
    except Exception as error:
        spool.line(ERR, f"the supervisor failed: {error!r}".encode(), always=True)
        result = {"status": None, "reason": "supervisor"}
        end_tree(0.0)
    spool.write()
    _write_result(folder, result)
    return 0


def launch(connection: socket.socket) -> int:
    """Fork a supervisor for each folder that is asked for, until nobody can ask any more.

    A message is a folder; the answer is the number of the process, with a descriptor of it, or why there is none.
    """
    # Whoever ends the agent from a terminal does not mean this process, which ends with the agent.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    running = 0
    with selectors.DefaultSelector() as selector:
        selector.register(connection, selectors.EVENT_READ)
        while True:
            asked = selector.select(REAP_S if running else None)
            with contextlib.suppress(ChildProcessError):
                while running and os.waitpid(-1, os.WNOHANG)[0]:
                    running -= 1
            if not asked:
                continue
            message = connection.recv(MAX_PATH)
            if not message:
                return 0
            try:
                pid = os.fork()
            except OSError as error:
                connection.send(str(error).encode())
                continue
            if pid == 0:
                selector.close()
                connection.close()
                _become_supervisor(Path(os.fsdecode(message)))
            running += 1
            # Its end is collected here alone, so the number is still its own.
            handle = os.pidfd_open(pid)
            socket.send_fds(connection, [b"%d" % pid], [handle])
            os.close(handle)


def _become_supervisor(folder: Path) -> NoReturn:
    """Be what ``python supervisor.py FOLDER`` is, in a process that was forked."""
    status = 1
    try:
        os.setsid()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        nothing = os.open(os.devnull, os.O_RDONLY)
        log = os.open(folder / "supervisor.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        for handle, number in ((nothing, 0), (log, 1), (log, 2)):
            os.dup2(handle, number)
        os.close(nothing)
        os.close(log)
        os.chdir(folder)
        status = main(folder)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


class Supervisor:
    """One command from its start to its end."""

    def __init__(self, folder: Path, spec: dict[str, Any], spool: Spool) -> None:
        self._folder = folder
        self._spec = spec
        self._spool = spool
        self._reason = self._why = ""
        self._status: int | None = None
        self._selector = selectors.DefaultSelector()
        self._wakeups, wakeup = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._asked_to_end)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self._selector.register(self._wakeups, selectors.EVENT_READ)
        self._away_since: float | None = None
        self._next_agent_check = self._next_use_check = 0.0
        self._tasks_at_check = 0
        self._groups = Groups(spec["process_limit"], spec["memory_limit"])

    def run(self) -> dict[str, Any]:
        """Run the command; return how it ended."""
        spec = self._spec
        started = time.monotonic()
        try:
            child = subprocess.Popen(
                spec["argv"], cwd=spec["cwd"], env=spec["env"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=subprocess.PIPE, preexec_fn=self._before_exec,
            )
        except (OSError, subprocess.SubprocessError) as error:
            self._spool.line(ERR, f"the command cannot be started: {error}".encode(), always=True)
            self._groups.remove()
            return {"status": None, "reason": "start"}
        assert child.stdout is not None and child.stderr is not None
        self._child = child.pid
        for name, pipe in ((OUT, child.stdout), (ERR, child.stderr)):
            stream = Stream(name, pipe.fileno(), self._spool)
            self._selector.register(pipe, selectors.EVENT_READ, stream)
        wall_s = spec["wall_s"]
        tick_s = PROCESS_TICK_S if spec["process_limit"] else TICK_S
        while self._status is None and not self._reason:
            self._wait(tick_s)
            now = time.monotonic()
            if wall_s and now - started > wall_s:
                self._end("timeout", f"timeout: ended after {wall_s:g} s")
            self._check_agent(now)
            self._check_use(now)
            self._reap()
        # When the command ends, what it has left running ends with it.
        if self._reason == "processes":
            self._end_tree(0.0)  # time would make it more
        else:
            self._end_tree(spec["grace_s"] if self._reason else LEFTOVERS_S)
        self._drain()
        if not self._reason:
            self._check_groups()
        self._groups.remove()
        self._remove_container()
        self._say_how_it_ended()
        return {"status": self._status, "reason": self._reason or "exit"}

    # -- ends ------------------------------------------------------------------------------------------------------

    def _asked_to_end(self, *_: object) -> None:
        if not self._reason:
            self._reason = "cancelled"

    def _end(self, reason: str, text: str) -> None:
        if not self._reason:
            self._reason, self._why = reason, text

    def _say_how_it_ended(self) -> None:
        status = self._status
        if self._why:
            self._spool.line(ERR, self._why.encode(), always=True)
        elif self._reason == "cancelled":
            self._spool.line(ERR, b"cancelled", always=True)
        elif status is not None and status < 0:
            self._spool.line(ERR, b"killed by signal %d" % -status, always=True)
        elif status:
            self._spool.line(ERR, b"exit status %d" % status, always=True)

    def _end_tree(self, grace_s: float) -> None:
        deadline = time.monotonic() + grace_s
        if descendants():
            _signal_all(descendants(), signal.SIGTERM)
        while descendants() and time.monotonic() < deadline:
            self._wait(0.02)
            self._reap()
        if self._status is None and descendants():
            # A sandbox or a container's client takes all of its own along.
            _signal_all([self._child], signal.SIGKILL)
            self._wait(0.05)
            self._reap()
        # Frozen first, so that none can start another one while they are killed.
        while True:
            found = descendants()
            if not found:
                break
            _signal_all(found, signal.SIGSTOP)
            more = descendants()
            while not set(more) <= set(found):
                found = more
                _signal_all(found, signal.SIGSTOP)
                more = descendants()
            _signal_all(more, signal.SIGKILL)
            self._wait(0.01)
            self._reap()
        self._reap()

    def _remove_container(self) -> None:
        if self._spec["cleanup"] and self._reason:
            with contextlib.suppress(OSError, subprocess.SubprocessError):
                subprocess.run(
                    self._spec["cleanup"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL, timeout=30, check=False,
                )

    # -- watching --------------------------------------------------------------------------------------------------

    def _wait(self, seconds: float) -> None:
        """Take output and signals for so long at most."""
        for key, _ in self._selector.select(seconds):
            if key.data is None:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._wakeups, 4096)
            elif not key.data.read():
                key.data.end()
                self._selector.unregister(key.fileobj)
        self._spool.write()

    def _drain(self) -> None:
        """Take the rest of the output: nobody writes any more, so each pipe ends."""
        deadline = time.monotonic() + 5.0
        while len(self._selector.get_map()) > 1 and time.monotonic() < deadline:
            self._wait(TICK_S)
        for key in list(self._selector.get_map().values()):
            if key.data is not None:
                key.data.end()
        self._spool.write()

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return
                if pid == self._child:
                    self._status = os.waitstatus_to_exitcode(status)

    def _check_agent(self, now: float) -> None:
        """End the command when its agent has been away for too long."""
        if now < self._next_agent_check:
            return
        self._next_agent_check = now + AGENT_CHECK_S
        if _is_locked(self._spec["agent_lock"]):
            self._away_since = None
            return
        if self._away_since is None:
            self._away_since = now
        if now - self._away_since >= self._spec["away_s"]:
            self._end("away", f"ended: its worker was away for {self._spec['away_s']:g} s")

    def _check_use(self, now: float) -> None:
        """End a command that uses more than it may."""
        memory, processes = self._spec["memory_limit"], self._spec["process_limit"]
        self._check_groups()
        if self._groups.hold_memory:
            memory = 0
        if not (memory or processes):
            return
        # Processes may multiply much faster than one looks for them; their total is known at once.
        total = _num_tasks() if processes else 0
        if now < self._next_use_check and total - self._tasks_at_check <= processes // 2:
            return
        self._tasks_at_check = total
        self._next_use_check = now + USE_CHECK_S
        tree = descendants()
        if processes and len(tree) > processes:
            self._end("processes", f"ended: {len(tree)} processes, {processes} are allowed")
        if memory:
            used = sum(_resident(pid) for pid in tree)
            if used > memory:
                self._end("memory", f"ended: {used} bytes of memory, {memory} are allowed")

    def _check_groups(self) -> None:
        """End a command that the kernel has kept from going beyond its limits."""
        if self._groups.refused_a_process():
            self._end("processes", f"ended: too many processes, {self._spec['process_limit']} are allowed")
        if self._groups.killed_for_memory():
            self._end("memory", f"ended: it needs more than {self._spec['memory_limit']} bytes of memory")

    def _before_exec(self) -> None:
        os.setsid()
        self._groups.enter()
        # Should the supervisor be killed, the command goes with it.
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        spec = self._spec
        for name, limit in (("RLIMIT_DATA", spec["memory_limit"]), ("RLIMIT_NOFILE", spec["file_limit"]),
                            ("RLIMIT_CORE", -1)):
            if limit:
                number = getattr(resource, name)
                hard = resource.getrlimit(number)[1]
                wanted = 0 if limit < 0 else limit
                if hard != resource.RLIM_INFINITY:
                    wanted = min(wanted, hard)
                resource.setrlimit(number, (wanted, wanted))


class Groups:
    """Control groups of one command, where this user may make them; elsewhere there are none, and nothing is held.

    Parameters
    ----------
    processes, memory : int
        How many processes, and bytes of memory, fit into them; 0: any number.

    Notes
    -----
    Those that look for a tree's processes may be too late; the kernel is not. It leaves some processes more than the
    limit, so that what goes beyond it is seen, too.
    """

    def __init__(self, processes: int, memory: int) -> None:
        self._folders: list[Path] = []
        self._memory: Path | None = None
        self._pids: Path | None = None
        if processes:
            self._pids = self._make("pids", {"pids.max": str(processes + max(16, processes // 2))})
        if memory:
            self._memory = self._make("memory", {"memory.max": str(memory)}) or self._make(
                "memory", {"memory.limit_in_bytes": str(memory)}
            )
            if self._memory is not None:
                # Not everywhere is swap counted, nor does a group end as one.
                for name, value in (("memory.swap.max", "0"), ("memory.memsw.limit_in_bytes", str(memory)),
                                    ("memory.oom.group", "1")):
                    with contextlib.suppress(OSError):
                        _write(self._memory / name, value)

    @property
    def hold_memory(self) -> bool:
        """Whether the kernel holds the limit of memory."""
        return self._memory is not None

    def enter(self) -> None:
        """Put this process into them."""
        for folder in self._folders:
            _write(folder / "cgroup.procs", str(os.getpid()))

    def killed_for_memory(self) -> bool:
        """Return whether the kernel has killed a process because there was no memory left."""
        return any(_count(self._memory, name, "oom_kill") for name in ("memory.events", "memory.oom_control"))

    def refused_a_process(self) -> bool:
        """Return whether the kernel has not let a process be made because there were too many."""
        return _count(self._pids, "pids.events", "max") > 0

    def remove(self) -> None:
        """Remove them; they are empty when the command's processes are gone."""
        for folder in self._folders:
            with contextlib.suppress(OSError):
                folder.rmdir()
        self._folders = []

    def _make(self, controller: str, values: dict[str, str]) -> Path | None:
        for base in group_folders(controller):
            folder = base / group_name(os.getpid())
            # One group serves both where there is one tree of groups.
            is_new = folder not in self._folders
            try:
                if is_new:
                    folder.mkdir()
                for name, value in values.items():
                    _write(folder / name, value)
            except OSError:
                if is_new:
                    with contextlib.suppress(OSError):
                        folder.rmdir()
                continue
            if is_new:
                self._folders.append(folder)
            return folder
        return None


def _count(group: Path | None, name: str, word: str) -> int:
    """Return the number after a word in a file of a group; 0 if there is none."""
    if group is not None:
        with contextlib.suppress(OSError), open(group / name, encoding="ascii") as file:
            for line in file:
                key, _, number = line.strip().partition(" ")
                if key == word:
                    return int(number)
    return 0


def group_name(pid: int) -> str:
    """Return what the groups of a supervisor are called."""
    return f"tensor-runtime-{pid}"


def group_folders(controller: str) -> list[Path]:
    """Return the folders in which groups with this controller could be made, the likeliest first."""
    folders = []
    with open("/proc/self/cgroup", encoding="utf-8") as file:
        for line in file:
            _, controllers, path = line.rstrip("\n").split(":", 2)
            if controller in controllers.split(","):
                root = Path("/sys/fs/cgroup") / controller
                folders += [root / path.lstrip("/"), root]
            elif not controllers:
                for root in (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified")):
                    # A group that has processes gives its controllers to none below it, as a rule; the one above may.
                    own = root / path.lstrip("/")
                    folders += [own, *([own.parent] if own != root else [])]
    return list(dict.fromkeys(folders))


def remove_groups(pid: int) -> None:
    """Remove the groups that a supervisor which was killed has left."""
    for controller in ("pids", "memory"):
        for base in group_folders(controller):
            with contextlib.suppress(OSError):
                (base / group_name(pid)).rmdir()


def _write(path: Path, text: str) -> None:
    # Without O_CREAT: what is no file of a group is not to become one.
    handle = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(handle, text.encode())
    finally:
        os.close(handle)


def descendants() -> list[int]:
    """Return all processes that this one has started, and those that they have, as far as they still run."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:
                    line = file.read()
            except OSError:
                continue
            fields = line[line.rindex(b")") + 2 :].split(None, 2)
            if fields[0] not in (b"Z", b"X"):
                children.setdefault(int(fields[1]), []).append(int(name))
            elif fields[0] == b"Z":
                children.setdefault(int(fields[1]), [])
    found: list[int] = []
    waiting = [os.getpid()]
    while waiting:
        for child in children.get(waiting.pop(), ()):
            found.append(child)
            waiting.append(child)
    return found


def end_tree(grace_s: float) -> None:
    """End all descendants, whatever state this process is in."""
    _signal_all(descendants(), signal.SIGTERM)
    time.sleep(grace_s)
    while descendants():
        _signal_all(descendants(), signal.SIGKILL)
        time.sleep(0.01)


def _signal_all(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)
            if number == signal.SIGTERM:
                os.kill(pid, signal.SIGCONT)


def _num_tasks() -> int:
    """Return how many threads there are on the machine."""
    with open("/proc/loadavg", "rb") as file:
        return int(file.read().split()[3].split(b"/")[1])


def _resident(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            fields = file.read().split()
        # What is shared with files is not the command's own.
        return (int(fields[1]) - int(fields[2])) * _PAGE
    except (OSError, IndexError):
        return 0


def _is_locked(path: str) -> bool:
    """Return whether somebody holds a lock."""
    try:
        lock = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(lock)
    return False


def _started(pid: int) -> int:
    with open(f"/proc/{pid}/stat", "rb") as file:
        line = file.read()
    return int(line[line.rindex(b")") + 2 :].split()[19])


def _write_result(folder: Path, result: dict[str, Any]) -> None:
    fresh = folder / "result.json.new"
    fresh.write_text(json.dumps(result))
    fresh.replace(folder / "result.json")


if __name__ == "__main__":
    if sys.argv[1] == "--launch":
        sys.exit(launch(socket.socket(fileno=os.dup(0))))
    sys.exit(main(Path(sys.argv[1])))
