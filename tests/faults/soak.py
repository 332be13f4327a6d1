"""Thousands of steps on a cluster whose tasks are killed, frozen and restarted at random; nothing may be left behind.

    python -m tests.faults.soak --steps 10000 --seed 7

Clients run steps of every kind side by side: short ones, large tensors through shared memory, loops and branches whose
parts lie on different tasks, updates of variables, steps that fail, that wait until their time is up, or until their
session is closed. Meanwhile one task after the other is killed (SIGKILL), asked to stop, or frozen (SIGSTOP), for a
moment or until it is given up, and comes back. The run has a part for every task, which is spared the killing there, so
that what a survivor keeps can be seen: at the end of the part, when the cluster is quiet, it must hold what it held
before of threads, descriptors, shared memory, places where tensors meet, sessions, and about as much memory.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import dataclasses
import gc
import json
import os
import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import runtime
from runtime import wire
from runtime.client.channels import Access
from runtime.client.status import fetch_status
from runtime.errors import Aborted, Cancelled, DeadlineExceeded, Error, InvalidArgument, Unavailable
from tests import leaks
from tests.cluster_tasks import OURS, Task, Tasks
from tests.graph.graphs import BOOL, FLOAT, INT32, const, graph_def, identity, node, placeholder

__all__ = ["Outcome", "soak"]

LOST_S = 1.5
STEP_TIMEOUT_MS = 60_000
CLIENTS = 3
PS, ONE, TWO = "/job:ps/task:0", "/job:worker/task:0", "/job:worker/task:1"
LARGE = 1 << 17
STEPS_PER_FAULT, STEPS_PER_FAULT_OF_MANY = 25, 60
# What a survivor's memory may have grown by: the allocator keeps some.
GROWTH_BYTES = 64 << 20
# Local sockets to and from each of two others, which come when something is first lent that way.
MESH = 4
# Threads of its pools that may have been needed for the first time.
POOL_THREADS = 4
QUIET_S = 60.0
# From so many steps on there is time to wait until shared memory that lies idle is given back.
LONG = 2000
# A tensor that its receiver has given up is lent until half a minute has passed.
LATE = ("lent", "borrowed")


def cluster_graph(number: int) -> Any:
    """Return the graph of one client, whose variable has the client's number."""
    near, far = (ONE, TWO) if number % 2 else (TWO, ONE)
    variable = {"dtype": FLOAT, "shape": (4,), "shared_name": f"sum{number}".encode()}
    queue = {"component_types": [FLOAT], "shared_name": f"empty{number}".encode()}
    return graph_def(
        placeholder("x"), placeholder("n", INT32), placeholder("p", BOOL),
        # There, back, and on.
        node("twice", "AddV2", "x", "x", T=FLOAT, device=far),
        node("more", "AddV2", "twice", "x", T=FLOAT, device=PS),
        const("axis", 0), node("total", "Sum", "more", "axis", T=FLOAT, Tidx=INT32, keep_dims=False, device=near),
        # A variable on the parameter server, and what comes to it from a worker.
        node("variable", "VarHandleOp", device=PS, **variable),
        const("zeros", np.zeros(4, np.float32), device=PS),
        node("init", "AssignVariableOp", "variable", "zeros", dtype=FLOAT, device=PS),
        identity("gradient", "x", device=far),
        node("push", "AssignAddVariableOp", "variable", "gradient", dtype=FLOAT, device=PS),
        node("pull", "ReadVariableOp", "variable", "^push", dtype=FLOAT, device=PS),
        # A loop here whose body is elsewhere.
        const("zero", 0, device=near),
        node("enter", "Enter", "zero", T=INT32, frame_name=b"turns", device=near),
        node("limit", "Enter", "n", T=INT32, frame_name=b"turns", is_constant=True, device=near),
        node("merge", "Merge", "enter", "next", T=INT32, N=2, device=near),
        node("less", "Less", "merge", "limit", T=INT32, device=near),
        node("goes", "LoopCond", "less", device=near),
        node("switch", "Switch", "merge", "goes", T=INT32, device=near),
        identity("body", "switch:1", dtype=INT32, device=PS),
        const("one", 1, "^body", device=PS),
        node("added", "AddV2", "body", "one", T=INT32, device=PS),
        node("next", "NextIteration", "added", T=INT32, device=near),
        node("turns", "Exit", "switch", T=INT32, device=near),
        # A branch on either side; the value of one is dead.
        node("choose", "Switch", "x", "p", T=FLOAT, device=near),
        node("minus", "Neg", "choose", T=FLOAT, device=PS),
        node("square", "Square", "choose:1", T=FLOAT, device=far),
        node("chosen", "Merge", "minus", "square", T=FLOAT, N=2, device=near),
        # One that fails on one task while another waits for it.
        node("broken", "CheckNumerics", "twice", T=FLOAT, message=b"as it should", device=PS),
        node("unbroken", "AddV2", "broken", "x", T=FLOAT, device=near),
        # One that waits for what never comes.
        node("queue", "FIFOQueueV2", device=far, **queue),
        node("token", "QueueDequeueV2", "queue", component_types=[FLOAT], device=far),
        identity("waits", "token", device=PS),
    )


@dataclasses.dataclass
class Held:
    """What the process of a task holds.

    Attributes
    ----------
    threads : int
    descriptors : Counter of str
        By kind, all but those of the next two.
    memory : int
        Files of shared memory, mapped or kept for the next tensors.
    local : int
        Sockets of this machine: those on which shared memory is borrowed, kept for half a minute, and a few others.
    rss, step_bytes : int
        Bytes.
    counts : dict of str to int
        Sessions, calls and so on, as its status tells; all 0 in a quiet cluster.
    used_bytes : int
        Of shared memory.
    """

    threads: int
    descriptors: collections.Counter[str]
    memory: int
    local: int
    rss: int
    step_bytes: int
    counts: dict[str, int]
    used_bytes: int

    def __str__(self) -> str:
        counts = ", ".join(f"{name} {count}" for name, count in self.counts.items())
        return (f"{self.threads} threads, {self.descriptors.total()} descriptors, {self.local} local sockets, "
                f"{self.memory} files of shared memory, {self.rss / 2**20:.0f} MiB resident, "
                f"{self.step_bytes} bytes of arrays, {self.used_bytes} bytes of "
                f"shared memory in use; {counts}")


def held_by(task: Task) -> Held:
    """Look at a task from outside, and ask it."""
    root = Path("/proc") / str(task.pid)
    local = {f"socket:[{line.split()[6]}]" for line in (root / "net" / "unix").read_text().splitlines()[1:]}
    descriptors: collections.Counter[str] = collections.Counter()
    memory = sockets = 0
    for name in os.listdir(root / "fd"):
        with contextlib.suppress(FileNotFoundError):
            link = os.readlink(root / "fd" / name)
            if "memfd:" in link:
                memory += 1
            elif link in local:
                sockets += 1
            else:
                descriptors[link.partition(":[")[0]] += 1
    told = fetch_status(task.target, Access(), 10.0, only_this_task=True).task[0]
    return Held(
        threads=len(os.listdir(root / "task")),
        descriptors=descriptors,
        memory=memory,
        local=sockets,
        rss=int((root / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"),
        step_bytes=told.step_bytes,
        counts={"sessions": len(told.session), "worker sessions": len(told.worker_session), "calls": told.num_calls,
                "wanted": told.num_wanted, "rendezvous": told.held.num_rendezvous, "lent": told.held.num_lent,
                "borrowed": told.held.num_borrowed},
        used_bytes=told.held.used_bytes,
    )


@dataclasses.dataclass
class Outcome:
    """What a run has seen.

    Attributes
    ----------
    steps : Counter
        (kind of step, name of its error or ``ok``) to how many.
    faults : Counter
        (what, task) to how many.
    openings : Counter
        How sessions were opened: ``ok``, or an error's name.
    survivors : list of (str, int, Held, Held)
        Of each part: the task that was spared, steps, what it held before and after.
    longest : tuple of (float, str)
        Seconds of the longest step, and its kind.
    problems : list of str
    """

    steps: collections.Counter[tuple[str, str]] = dataclasses.field(default_factory=collections.Counter)
    faults: collections.Counter[tuple[str, str]] = dataclasses.field(default_factory=collections.Counter)
    openings: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    survivors: list[tuple[str, int, Held, Held]] = dataclasses.field(default_factory=list)
    longest: tuple[float, str] = (0.0, "")
    problems: list[str] = dataclasses.field(default_factory=list)

    def report(self) -> str:
        lines = [f"{sum(self.steps.values())} steps, {sum(self.faults.values())} faults"]
        by_error: collections.Counter[str] = collections.Counter()
        for (_, how), count in self.steps.items():
            by_error[how] += count
        lines.append("steps: " + ", ".join(f"{how} {count}" for how, count in by_error.most_common()))
        lines += [f"  {kind}: " + ", ".join(f"{how} {count}" for (one, how), count in sorted(self.steps.items())
                                            if one == kind) for kind in sorted({kind for kind, _ in self.steps})]
        lines.append("sessions opened: " + ", ".join(f"{how} {count}" for how, count in self.openings.most_common()))
        lines.append("faults: " + ", ".join(f"{what} {task} {count}" for (what, task), count
                                            in sorted(self.faults.items())))
        lines.append(f"longest step: {self.longest[0]:.1f} s, {self.longest[1]}")
        for name, steps, before, after in self.survivors:
            lines += [f"{name} over {steps} steps", f"  before: {before}", f"  after:  {after}"]
        return "\n".join([*lines, *(f"PROBLEM: {problem}" for problem in self.problems)])


Check = Callable[[Any], bool]
Kind = tuple[str, dict[str, Any], Check, tuple[type[Error], ...]]


def kinds(random_numbers: random.Random) -> dict[str, Kind]:
    """Return kinds of steps: fetch, feeds, whether the answer is right, and errors that are right, too."""
    number = float(random_numbers.randrange(1, 1000))
    small = np.full(4, number, np.float32)
    large = np.full(LARGE * random_numbers.choice((1, 2, 4)), number, np.float32)
    turns = random_numbers.randrange(1, 8)
    is_true = bool(random_numbers.randrange(2))
    return {
        "small": ("more:0", {"x:0": small}, lambda found: bool((found == 3 * number).all()), ()),
        "large": ("total:0", {"x:0": large},
                  lambda found: bool(np.isclose(found, 3.0 * number * large.size, 1e-3)), ()),
        "large back": ("more:0", {"x:0": large}, lambda found: bool((found == 3 * number).all()), ()),
        "update": ("pull:0", {"x:0": small}, lambda found: bool((found >= number).all()), ()),
        "loop": ("turns:0", {"n:0": np.int32(turns)}, lambda found: int(found) == turns, ()),
        "branch": ("chosen:0", {"x:0": small, "p:0": np.bool_(is_true)},
                   lambda found: bool((found == (number**2 if is_true else -number)).all()), ()),
        "broken": ("unbroken:0", {"x:0": np.full(4, np.nan, np.float32)}, lambda found: False, (InvalidArgument,)),
        "waits": ("waits:0", {}, lambda found: False, (DeadlineExceeded,)),
        "closed": ("waits:0", {}, lambda found: False, (Cancelled,)),
    }


WEIGHTS = {"small": 30, "large": 12, "large back": 6, "update": 20, "loop": 12, "branch": 10, "broken": 5, "waits": 3,
           "closed": 1}
"""How often each kind of step runs."""


class Client(threading.Thread):
    """A client that runs steps, with sessions that it opens anew when they are lost."""

    def __init__(self, number: int, run: Run, budget: Budget, targets: list[str]) -> None:
        super().__init__(name=f"client {number}")
        self._number = number
        self._run = run
        self._budget = budget
        self._targets = targets
        self._random = random.Random(run.random.random())
        self._graph = cluster_graph(number)
        self._session: runtime.Session | None = None

    def run(self) -> None:
        try:
            while self._budget.take():
                if self._session is None:
                    self._session = self._open()
                if self._session is not None:
                    self._step(self._session)
        except BaseException as error:
            self._run.problem(f"{self.name}: {type(error).__name__}: {error}")
        finally:
            self._close()

    def _open(self) -> runtime.Session | None:
        config = wire.ConfigProto(operation_timeout_in_ms=STEP_TIMEOUT_MS)
        session = runtime.Session(self._random.choice(self._targets), self._graph, config, connect_timeout_s=60.0)
        try:
            session.run([], targets=["init"])
        except (Aborted, Unavailable) as error:
            self._run.opened(type(error).__name__)
            session.close()
            return None
        self._run.opened("ok")
        return session

    def _close(self) -> None:
        session, self._session = self._session, None
        if session is not None and self._random.random() < 0.9:
            session.close()
        del session  # one that is forgotten closes by itself

    def _step(self, session: runtime.Session) -> None:
        kind = self._random.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        fetch, feeds, is_right, expected = kinds(self._random)[kind]
        timeout_ms = self._random.randrange(20, 200) if kind == "waits" else STEP_TIMEOUT_MS
        closing = threading.Timer(self._random.random() / 5, session.close) if kind == "closed" else None
        if closing is not None:
            closing.start()
        began = time.monotonic()
        try:
            found = session.run(fetch, feeds, {"timeout_in_ms": timeout_ms})
            how = "ok" if is_right(found) else "wrong"
            if how == "wrong":
                self._run.problem(f"{kind}: {found} for {feeds}")
        except (Aborted, Unavailable, *expected) as error:
            how = type(error).__name__
        finally:
            if closing is not None:
                closing.join()
        self._run.stepped(kind, how, time.monotonic() - began)
        # A session that has lost a task is of no use; one that misses it at the moment may be.
        if kind == "closed" or how == "Aborted" or self._random.random() < (0.3 if how == "Unavailable" else 0.01):
            self._close()


class Budget:
    """Steps that clients may still run."""

    def __init__(self, steps: int) -> None:
        self.left = steps
        self._lock = threading.Lock()

    def take(self) -> bool:
        with self._lock:
            self.left -= 1
            return self.left >= 0


class Run:
    """One run over the cluster."""

    def __init__(self, tasks: Tasks, steps: int, seed: int, say: Callable[[str], object]) -> None:
        self.random = random.Random(seed)
        self.outcome = Outcome()
        self._tasks = tasks
        self._targets = [task.target for task in tasks if task.job == "worker"]
        self._steps = steps
        self._steps_per_fault = STEPS_PER_FAULT if steps < LONG else STEPS_PER_FAULT_OF_MANY
        self._say = say
        self._lock = threading.Lock()

    def problem(self, text: str) -> None:
        with self._lock:
            self.outcome.problems.append(text)
        self._say(f"PROBLEM: {text}")

    def opened(self, how: str) -> None:
        with self._lock:
            self.outcome.openings[how] += 1

    def stepped(self, kind: str, how: str, seconds: float) -> None:
        with self._lock:
            self.outcome.steps[kind, how] += 1
            self.outcome.longest = max(self.outcome.longest, (seconds, f"{kind}, {how}"))

    def all_parts(self) -> None:
        """Run a part for every task as the survivor."""
        everybody = list(self._tasks)
        self._clients(self._steps // 10, [])  # to have been through everything once
        for survivor in everybody:
            before = self._rested(survivor)
            began = survivor.pid
            steps = self._steps * 3 // 10
            self._clients(steps, [task for task in everybody if task is not survivor], survivor)
            after = self._rested(survivor)
            deadline = time.monotonic() + QUIET_S
            while (kept := self._kept(before, after)) and time.monotonic() < deadline:
                time.sleep(0.2)  # connections may still be closing
                after = held_by(survivor)
            if kept:
                self.problem(f"{survivor.name} has kept {', '.join(kept)}")
            self.outcome.survivors.append((survivor.name, steps, before, after))
            self._say(f"{survivor.name} over {steps} steps\n  before: {before}\n  after:  {after}")
            if survivor.pid != began:
                self.problem(f"{survivor.name} was to survive")

    def _clients(self, steps: int, victims: list[Task], survivor: Task | None = None) -> None:
        budget = Budget(steps)
        clients = [Client(number, self, budget, self._targets) for number in range(CLIENTS)]
        for client in clients:
            client.start()
        next_fault = steps - self.random.randrange(1, self._steps_per_fault)
        while any(client.is_alive() for client in clients):
            if victims and 0 < budget.left <= next_fault:
                # The survivor may freeze, too.
                self._fault(self.random.choice(victims), survivor if self.random.random() < 0.3 else None)
                next_fault = budget.left - self.random.randrange(1, 2 * self._steps_per_fault)
            time.sleep(0.005)
        for client in clients:
            client.join()

    def _fault(self, victim: Task, survivor: Task | None) -> None:
        pause = self.random.random() / 2
        what = self.random.choices(("kill", "stop", "freeze", "freeze long"), (4, 2, 3, 1))[0]
        if survivor is not None and what.startswith("freeze"):
            victim = survivor
        self.outcome.faults[what, victim.name] += 1
        if what == "kill":
            victim.kill()
            time.sleep(pause)
            victim.start()
        elif what == "stop":
            victim.stop(20.0)
            time.sleep(pause)
            victim.start()
        else:
            victim.freeze()
            time.sleep(pause if what == "freeze" else LOST_S * 2 + pause)
            victim.thaw()

    def _rested(self, task: Task) -> Held:
        """Return what a task holds when nobody does anything, and every task has met every other."""
        self.meet()
        self._until(lambda: {task.name: found for task in self._tasks if (found := self._left(task))}, "not quiet")
        if self._steps >= LONG:
            self._until(lambda: {task.name: found for task in self._tasks if (found := held_by(task).memory)},
                        "shared memory is not given back")
        return held_by(task)

    def meet(self) -> None:
        """Run steps over all tasks, from every master."""
        for number, target in enumerate(self._targets):
            with runtime.Session(target, cluster_graph(number), connect_timeout_s=60.0) as session:
                session.run([], targets=["init"])
                for kind in ("large", "large back", "update", "loop"):
                    fetch, feeds, *_ = kinds(random.Random(1))[kind]
                    session.run(fetch, feeds)

    def _left(self, task: Task) -> dict[str, int]:
        """Return what a task has that it must give back."""
        return {name: count for name, count in held_by(task).counts.items()
                if count and (self._steps >= LONG or name not in LATE)}

    def _until(self, left: Callable[[], Any], what: str) -> None:
        deadline = time.monotonic() + QUIET_S
        while found := left():
            if time.monotonic() > deadline:
                self.problem(f"{what} after {QUIET_S} s: {found}")
                return
            time.sleep(0.05)

    def _kept(self, before: Held, after: Held) -> list[str]:
        """Return what a task has more of than before."""
        return [name for name, more in (
            ("threads", after.threads - before.threads - POOL_THREADS),
            (f"descriptors {dict(after.descriptors - before.descriptors)}",
             (after.descriptors - before.descriptors).total()),
            ("local sockets", (after.local - before.local - MESH) * (self._steps >= LONG)),
            ("shared memory", (after.used_bytes - before.used_bytes) * (self._steps >= LONG)),
            ("arrays", after.step_bytes - before.step_bytes),
            ("resident memory", after.rss - before.rss - GROWTH_BYTES),
        ) if more > 0]


@contextlib.contextmanager
def _alone(waits: bool) -> Iterator[list[str]]:
    """Give a list that is filled, at the end, with what this process has kept; shared memory is waited for, or not."""
    kept: list[str] = []
    before = leaks.running_threads(), leaks.open_descriptors()
    yield kept
    deadline = time.monotonic() + QUIET_S
    while True:
        gc.collect()
        threads, descriptors = leaks.running_threads() - before[0], leaks.open_descriptors() - before[1]
        # libuv has a pipe for the process from the first loop on.
        descriptors -= collections.Counter(socket=MESH, pipe=2)
        if not waits:
            descriptors = collections.Counter({kind: count for kind, count in descriptors.items()
                                               if kind != "socket" and "memfd:" not in kind})
        if not threads and not descriptors:
            return
        if time.monotonic() > deadline:
            kept.append(f"the clients' process has kept threads {dict(threads)}, descriptors {dict(descriptors)}")
            return
        time.sleep(0.05)


def soak(folder: Path, steps: int, seed: int, say: Callable[[str], object] = lambda text: None) -> Outcome:
    """Run steps on a parameter server and two workers, any of which is master, and return what was seen.

    Parameters
    ----------
    folder : Path
        For logs and data.
    steps : int
    seed : int
        Decides about steps and faults; not about who is faster.
    say : callable
        Gets texts on the way.
    """
    options = ("--peer-timeout-s", str(LOST_S), "--grace", "1")
    with Tasks(folder, {"ps": [OURS], "worker": [OURS, OURS]}, options) as tasks:
        tasks.start()
        run = Run(tasks, steps, seed, say)
        run.meet()  # what a process has once, such as threads of gRPC, is there then
        with _alone(steps >= LONG) as kept:
            run.all_parts()
        for text in kept:
            run.problem(text)
        for log in folder.glob("*/out.log"):
            if "Traceback" in (text := log.read_text(errors="replace")):
                run.problem(f"{log}: {text[max(0, text.index('Traceback') - 500):][:3000]}")
    return run.outcome


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    options = parser.parse_args()
    print(json.dumps(vars(options)), flush=True)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        outcome = soak(Path(folder), options.steps, options.seed, lambda text: print(text, flush=True))
    print(f"{outcome.report()}\n{time.monotonic() - began:.0f} s")
    return bool(outcome.problems)


if __name__ == "__main__":
    sys.exit(main())
