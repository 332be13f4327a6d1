"""A program that submits tasks with medium payloads, a few at a time, and says which are stored: id, number, how.

``python near_client.py TARGET SESSION NAME PAUSE``: writes to the server's file begin PAUSE seconds late, each, so that
whoever freezes or kills the program is likely to do it just before one.
"""

from __future__ import annotations

import random
import sys
import time
from typing import Any

import runtime
from runtime.client.tasks import near
from runtime.client.tasks import session as session_module

TASKS = 6
MOST_BYTES = 600_000


def payload_of(name: str, index: int) -> bytes:
    """Return the payload of a task; no two are equal."""
    chance = random.Random(f"{name} {index}")
    return b"digest %s %d " % (name.encode(), index) + chance.randbytes(chance.randrange(20_000, MOST_BYTES))


def main() -> None:
    """Run until it is ended."""
    target, session_id, name, pause = sys.argv[1:]
    write = near.write_values

    def late(*arguments: Any) -> list[int]:
        time.sleep(float(pause))
        return write(*arguments)

    near.write_values = late
    session_module._NEAR_BYTES = 1
    with runtime.TaskClient(target, retry_s=60) as client:
        session = client.attach(session_id)
        start = 0
        print("ready", flush=True)
        while True:
            indices = range(start, start + TASKS)
            handles = session.map([payload_of(name, index) for index in indices])
            for index, handle in zip(indices, handles, strict=True):
                print(f"stored {handle.id} {index} {client.asynchronous.may_be_near}", flush=True)
            start += TASKS


if __name__ == "__main__":
    main()
