"""Reports of this machine beside other work: one at once, and one every quarter of an hour."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

from runtime.errors import Error
from runtime.fleet.this_machine import EVERY_S

__all__ = ["Reports"]

logger = logging.getLogger(__name__)

# How long after a report that did not arrive the next one is sent.
AGAIN_S = 60.0
# How long the end of the block waits for a report that is on its way.
END_S = 5.0


class Reports:
    """Sends reports from a thread of its own, as long as a block lasts. A report that fails is logged, and sent again.

    Parameters
    ----------
    send : callable
        Sends one; raises an error of :mod:`runtime.errors` if it cannot be.
    server : str
        Whom it goes to, for the log.
    every_s, again_s : float
        Seconds between two reports, and after one that failed.
    """

    def __init__(
        self, send: Callable[[], object], server: str, every_s: float = EVERY_S, again_s: float = AGAIN_S
    ) -> None:
        self._send = send
        self._server = server
        self._every_s = every_s
        self._again_s = again_s
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="machine-reports", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join(END_S)

    def _run(self) -> None:
        while not self._ended.wait(self._once() * random.uniform(0.9, 1.1)):
            pass

    def _once(self) -> float:
        """Send a report; return how long to wait for the next one."""
        try:
            self._send()
        except Error as error:
            logger.warning("this machine could not be reported", extra={
                "server": self._server, "reason": str(error), "again_s": self._again_s,
            })
            return self._again_s
        except Exception:
            logger.exception("this machine could not be reported", extra={"server": self._server})
            return self._every_s
        logger.info("has reported this machine", extra={"server": self._server})
        return self._every_s
