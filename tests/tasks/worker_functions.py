"""Functions that tests serve as workers."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from runtime.errors import InvalidArgument
from runtime.objects.files import MEDIUM_BYTES
from runtime.tasks.worker import AsyncTask, Subtask, Task, TaskError, worker
from tests.leaks import RUN_TIMEOUT_S


@worker
def double(payload: bytes) -> bytes:
    """Return the payload twice."""
    return payload * 2


@worker
def by_payload(payload: bytes, task: Task) -> Any:
    """Do what the payload says, a word and its arguments."""
    word, *rest = payload.decode().split(" ")
    return getattr(Words, word)(task, *rest)


class Words:
    """What `by_payload` can do."""

    @staticmethod
    def facts(task: Task) -> bytes:
        dependencies = ",".join(f"{key}={value.decode()}" for key, value in task.dependencies.items())
        options = ",".join(f"{key}={value}" for key, value in sorted(task.options.items()))
        left_s = task.time_remaining()
        assert left_s is not None and 0 < left_s <= 60
        keys = "+".join(task.expected_keys)
        return f"{task.session} {task.id} {task.attempt} {keys} {dependencies} {options}".encode()

    @staticmethod
    def fail(task: Task, times: str) -> bytes:
        if task.attempt < int(times):
            raise ValueError(f"failure {task.attempt}")
        return b"at last"

    @staticmethod
    def refuse(task: Task) -> bytes:
        raise TaskError("never")

    @staticmethod
    def garble(task: Task, kind: str) -> bytes:
        text = "no file na\udcefve"  # as os.fsdecode has a name that is no UTF-8
        task.progress(0.5, text)
        raise TaskError(text) if kind == "answer" else ValueError(text)

    @staticmethod
    def exit(task: Task) -> bytes:
        sys.exit("enough")

    @staticmethod
    def both(task: Task) -> dict[str, bytes]:
        return {key: key.encode() for key in task.expected_keys}

    @staticmethod
    def one_for_two(task: Task) -> bytes:
        return b"which?"

    @staticmethod
    def text(task: Task) -> str:
        return "text"

    @staticmethod
    def split(task: Task) -> None:
        first, second = task.create_tasks([Subtask(b"facts", dependencies=["sent"]), Subtask(b"facts", keys=["sum"])])
        assert (first, second) == (f"{task.id}/1", f"{task.id}/2")
        task.send("sent", b"early")

    @staticmethod
    def claim(task: Task) -> bytes:
        try:
            task.create_tasks([Subtask(b"facts", id=task.id)])
        except Exception as error:
            return str(error).encode()
        return b"accepted"

    @staticmethod
    def misuse(task: Task) -> bytes:
        wrong: list[Callable[[], object]] = [
            lambda: task.progress("half"),  # type: ignore[arg-type]
            lambda: task.progress(float("nan")),
            lambda: task.create_tasks([b"payload"]),  # type: ignore[list-item]
            lambda: task.create_tasks([Subtask(b"facts", keys="sum")]),
        ]
        answers = []
        for call in wrong:
            try:
                answers.append(repr(call()))
            except InvalidArgument as error:
                answers.append(error.message)
        return "|".join(answers).encode()

    @staticmethod
    def ask(task: Task) -> bytes:
        answers = [task.resource("k")]
        for ask, key in ((task.common_data, "nobody"), (task.direct_data, "k"), (task.resource, "nobody")):
            try:
                answers.append(ask(key))
            except LookupError as error:
                answers.append(str(error).encode())
        return b"|".join(answers)

    @staticmethod
    def progress(task: Task) -> bytes:
        for step in range(1, 5):
            task.progress(step / 4, f"step {step}")
        wait_for(task.options["go"])
        return b""

    @staticmethod
    def spin(task: Task, path: str) -> bytes:
        """Run until it is interrupted, whatever it takes."""
        with open(path, "w") as file:
            file.write("began")
        for _ in lasting():
            time.sleep(0.005)
        raise TimeoutError("nobody has interrupted this")

    @staticmethod
    def die(task: Task) -> bytes:
        if task.attempt == 0:
            os._exit(9)
        return str(os.getpid()).encode()

    @staticmethod
    def pid(task: Task) -> bytes:
        return str(os.getpid()).encode()

    @staticmethod
    def sleep(task: Task, seconds: str) -> bytes:
        time.sleep(float(seconds))
        return b"slept"

    @staticmethod
    def wait(task: Task, path: str) -> bytes:
        with open(f"{path}.began", "w") as file:
            file.write("began")
        wait_for(path)
        return b"waited"


@worker
def zeros(payload: bytes) -> bytes:
    """Return as many bytes as the payload says."""
    return bytes(int(payload))


@worker
async def coroutine(payload: bytes, task: AsyncTask) -> bytes:
    """Send, ask and create as a coroutine."""
    (child,) = await task.create_tasks([Subtask(b"leaf", keys=["child"])]) if payload == b"root" else (task.id,)
    if payload == b"root":
        await task.send("root", await task.resource("k"))
        return b""
    return child.encode()


@worker(arrays=True)
def scale(x: Any, factor: Any, task: Task) -> dict[str, Any]:
    """Return arrays of arrays, and what a dependency has."""
    found = {"y": x * factor}
    for key in task.dependencies:
        found[f"of {key}"] = task.dependency_arrays(key)["y"]
    return found


def plain(payload: bytes) -> bytes:
    """A function without a decorator."""
    return payload[::-1]


def wait_for(path: str) -> None:
    """Wait until a file is there; a test that has failed makes none, and its process ends all the same."""
    for _ in lasting():
        if os.path.exists(path):
            return
        time.sleep(0.005)
    raise TimeoutError(f"nobody has made {path}")


def lasting() -> Iterator[None]:
    """Go on for as long as a test may take: the threads of a worker keep the process that it runs in from ending."""
    until = time.monotonic() + RUN_TIMEOUT_S
    while time.monotonic() < until:
        yield


@worker
def survive(payload: bytes, task: Task) -> bytes | None:
    """Return the payload with a mark that no other run makes; hand the result over when the payload says so."""
    if payload.startswith(b"split") and task.attempt < 3:
        task.create_tasks([Subtask(b"part" + payload, id=f"{task.id}/part", keys=task.expected_keys)])
        return None
    if payload.startswith(b"slow"):
        time.sleep(0.05)
    # A result that gets a file of its own.
    more = bytes(MEDIUM_BYTES) if b" huge " in payload[:40] else b""
    return payload + more + b"|" + os.urandom(8).hex().encode()
