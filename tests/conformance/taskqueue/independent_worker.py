"""A worker written against the published protocol alone, without this project's code.

One connection. It polls every POLL seconds (5 unless told otherwise), takes what is listed with status A, sends C, runs
the command with ``sh``, sends its output on one log stream for each command, and then S or F. It sends no metadata.

    python independent_worker.py HOST:PORT NAME CONCURRENCY [POLL]
"""

from __future__ import annotations

import contextlib
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc

sys.path.insert(0, str(Path(__file__).parent))
import messages

CALL_S = 5.0


class Worker:
    """The whole program."""

    def __init__(self, address: str, name: str, concurrency: int, poll_s: float) -> None:
        self.stub = messages.Stub(grpc.insecure_channel(address))
        self.slots = threading.Semaphore(concurrency)
        self.poll_s = poll_s
        self.mine: set[int] = set()
        info = messages.CLASSES["WorkerInfo"](name=name, concurrency=concurrency)
        self.id = self.stub.call("RegisterWorker", info, CALL_S).worker_id

    def work(self) -> None:
        """Poll for ever."""
        while True:
            try:
                answer = self.stub.call("PingAndTakeNewTasks", messages.CLASSES["WorkerId"](worker_id=self.id), CALL_S)
            except grpc.RpcError:
                time.sleep(self.poll_s)
                continue
            for task in answer.tasks:
                if task.status == "A" and task.task_id not in self.mine:
                    self.mine.add(task.task_id)
                    # As that protocol's own worker does it: no ping while all slots are taken.
                    self.slots.acquire()
                    threading.Thread(target=self.run, args=(task,), daemon=True).start()
            time.sleep(min(1.0, self.poll_s) if answer.tasks else self.poll_s)

    def report(self, task_id: int, status: str) -> bool:
        """Tell the server a status, again when it is away; return whether it took it."""
        update = messages.CLASSES["TaskStatusUpdate"](task_id=task_id, new_status=status)
        while True:
            try:
                return bool(self.stub.call("UpdateTaskStatus", update, CALL_S).success)
            except grpc.RpcError as error:
                if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                    return False
                time.sleep(0.5)

    def run(self, task: Any) -> None:
        """Run one command from C to S or F."""
        try:
            if not self.report(task.task_id, "C"):
                return
            process = subprocess.Popen(
                ["sh", "-c", task.command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace"
            )
            lines: queue.Queue[Any] = queue.Queue()

            def read(pipe: Any, log_type: str) -> None:
                for line in pipe:
                    text = line.rstrip("\n")
                    lines.put(messages.CLASSES["TaskLog"](task_id=task.task_id, log_type=log_type, log_text=text))
                lines.put(None)

            def entries() -> Iterator[Any]:
                ended = 0
                while ended < 2:
                    entry = lines.get()
                    if entry is None:
                        ended += 1
                    else:
                        yield entry

            for pipe, log_type in ((process.stdout, "stdout"), (process.stderr, "stderr")):
                threading.Thread(target=read, args=(pipe, log_type), daemon=True).start()
            # The stream is sent while the command runs, so there is no deadline on it.
            with contextlib.suppress(grpc.RpcError):
                self.stub.call("SendTaskLogs", entries(), timeout=3600.0)
            self.report(task.task_id, "S" if process.wait() == 0 else "F")
        finally:
            self.mine.discard(task.task_id)
            self.slots.release()


if __name__ == "__main__":
    address, name, concurrency, *poll = sys.argv[1:]
    Worker(address, name, int(concurrency), float(poll[0]) if poll else 5.0).work()
