"""What is done again and again beside the calls."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from runtime.errors import Error

__all__ = ["repeat"]

logger = logging.getLogger(__name__)


async def repeat(
    work: Callable[[], Awaitable[None]], period_s: float, failure: str, *, pauses_first: bool = True
) -> None:
    """Do work until this is cancelled. A turn that fails is told in the log, and the next one comes all the same.

    Parameters
    ----------
    work : callable
        ``await work()`` is one turn.
    period_s : float
        From the end of a turn to the begin of the next.
    failure : str
        What the log says of a turn that failed.
    pauses_first : bool
        Whether the first turn comes after a period, too.
    """
    if pauses_first:
        await asyncio.sleep(period_s)
    while True:
        try:
            await work()
        except Error as error:
            # The store says no at the moment, say.
            logger.warning(failure, extra={"reason": error.message})
        except Exception:
            # A mistake here is not to end what has to go on as long as the server.
            logger.exception(failure)
        await asyncio.sleep(period_s)
