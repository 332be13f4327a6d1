"""The roads that a session's large tensors take beside its messages: shared memory within a host, a stream elsewhere.

Which of them there are is found out when the session is made: a server of this project answers
`runtime.v1.StepTensors`, others do not, and everything stays in the messages.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from runtime import wire
from runtime._ext.errors import (
    DataLoss,
    DeadlineExceeded,
    NotFound,
    Unavailable,
)
from runtime.client.transport import Array
from runtime.dtypes import from_numpy
from runtime.transport import elsewhere
from runtime.transport.place import Place, here

if TYPE_CHECKING:
    from runtime.client.access import Access
    from runtime.client.watched import WatchedChannel
    from runtime.transport.elsewhere import Elsewhere
    from runtime.transport.parcel import Receiver, Sender

__all__ = ["MEET", "TensorRoads"]

logger = logging.getLogger(__name__)

MEET = "/runtime.v1.StepTensors/Meet"

_RESUME_S = 30.0
_MAX_ATTEMPTS = 3

_T = TypeVar("_T")


class TensorRoads:
    """What a session does with large tensors.

    Parameters
    ----------
    target : str
    access : Access
    answer : bytes
        Of the server, to `MEET`.
    watched : WatchedChannel
        Whose watch ends what is carried beside it, too.

    Notes
    -----
    Safe from several threads.
    """

    def __init__(self, target: str, access: Access, answer: bytes, watched: WatchedChannel) -> None:
        self._target = target
        self._watched = watched
        self._access = access
        place = Place.of(wire.runtime_v1.MeetResponse.FromString(answer).place)
        self._can_share = here().can_share_with(place)

    @property
    def offer(self) -> bytes:
        """Return what is put behind every request."""
        return elsewhere.offer(self._can_share)

    def step(self, values: Sequence[Array], timeout_s: float | None,
             call: Callable[[Sequence[Array], bytes, float | None], bytes]) -> tuple[bytes, Elsewhere | None]:
        """Run a step whose large feeds go before it.

        Parameters
        ----------
        values : sequence of ndarray
        timeout_s : float, optional
            For all of it.
        call : callable
            ``call(values, more, timeout_s)`` sends the message, with `more` behind it, and returns the answer.

        Returns
        -------
        tuple of (bytes, Elsewhere or None)
            The answer, and what it says of fetches that are elsewhere.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        large = elsewhere.large_ones(values)
        for _ in range(_MAX_ATTEMPTS):
            lent = elsewhere.lend(values, large) if large and self._can_share else elsewhere.Lent()
            try:
                kept, more = self._lay_out(values, large, lent, deadline)
                answer = call(kept, more, _left(deadline))
            finally:
                lent.revoke()
            told = elsewhere.find(answer)
            if told is None or not told.is_refused:
                return answer, told
            logger.info("%s cannot reach the memory of this process; large tensors take the stream", self._target)
            self._can_share = False
        raise Unavailable(f"{self._target} has not taken the feeds of the step by any road")

    def _lay_out(self, values: Sequence[Array], large: Sequence[int], lent: elsewhere.Lent, deadline: float | None
                 ) -> tuple[Sequence[Array], bytes]:
        """Return the feeds that stay in the message, and what is put behind it for the others."""
        away = lent.positions
        left = [index for index in large if index not in away]
        message = wire.runtime_v1.TensorsElsewhere()
        if away:
            message.place.CopyFrom(lent.place.message())
            message.tensor.extend(lent.tensors)
        elif self._can_share:
            message.place.CopyFrom(here().message())
        if elsewhere.is_worth_a_stream(values, left):
            message.key = f"feeds/{secrets.token_hex(8)}"
            self._send(message.key, {str(index): values[index] for index in left}, deadline)
            message.tensor.extend(wire.runtime_v1.ElsewhereTensor(index=index, shape=values[index].shape)
                                  for index in left)
            away = [*away, *left]
        if not away:
            return values, b""
        return elsewhere.emptied(values, away), elsewhere.as_field(message)

    def _send(self, key: str, arrays: dict[str, Array], deadline: float | None) -> None:
        from runtime.transport.parcel import Sender

        sender = Sender(key, arrays, may_share=False)
        try:
            self._exchange(sender, deadline, "the feeds of the step")
        finally:
            sender.close()

    def gather(self, told: Elsewhere, arrays: list[Array], names: Sequence[str], deadline: float | None) -> list[Array]:
        """Return a step's fetches with those that are elsewhere.

        Parameters
        ----------
        told : Elsewhere
        arrays : list of ndarray
            Of the message.
        names : sequence of str
            Of the fetches, for errors.
        deadline : float, optional
            By the clock of `time.monotonic`.

        Raises
        ------
        Unavailable
            If the server has them no longer: it answered, and died or was restarted before they were fetched.
        """
        try:
            # One wait for all that is tried in turn: a server that freezes now has no more time than any other.
            with self._watched.awaiting(lambda: "the large fetches of the step"):
                return self._gathered(told, arrays, names, deadline)
        except NotFound as error:
            raise Unavailable(f"{self._target} has no longer the large fetches of the step, perhaps because it was "
                              f"restarted: {error.message}") from None

    def _gathered(self, told: Elsewhere, arrays: list[Array], names: Sequence[str], deadline: float | None
                  ) -> list[Array]:
        made = list(arrays)
        for tensor in told.tensors:
            if tensor.index >= len(made) or made[tensor.index].size:
                raise DataLoss(f"ElsewhereTensor.index of the answer is {tensor.index}, which is no empty fetch")
        apart = [tensor for tensor in told.tensors if not tensor.HasField("lease")]
        for tensor in told.tensors:
            if tensor.HasField("lease"):
                made[tensor.index] = self._lent(told, tensor, made[tensor.index].dtype, names[tensor.index], deadline)
        if apart:
            nbytes = sum(_nbytes(tensor, made[tensor.index].dtype) for tensor in apart)
            found = self._receive(told.key, nbytes, deadline)
            for tensor in apart:
                array = found.get(str(tensor.index))
                if array is None or array.dtype != made[tensor.index].dtype or array.shape != tuple(tensor.shape):
                    raise DataLoss(f"the parcel of the answer has not '{names[tensor.index]}' as it was announced")
                made[tensor.index] = array
        return made

    def _lent(self, told: Elsewhere, tensor: wire.runtime_v1.ElsewhereTensor, dtype: np.dtype[Any], name: str,
              deadline: float | None) -> Array:
        assert told.place is not None
        try:
            return elsewhere.claimed(told.place, tensor, int(from_numpy(dtype)), f"'{name}'")
        except elsewhere.OUT_OF_REACH as error:
            logger.info("the memory of %s cannot be reached; large tensors take the stream: %s", self._target, error)
            self._can_share = False
        from runtime.transport.step_tensors import LENT, PARCEL_ITEM

        nbytes = tensor.lease.nbytes
        elsewhere.check_size(tensor, dtype, nbytes, f"'{name}'")
        found = self._receive(f"{LENT}{tensor.lease.lease}", nbytes, deadline)
        content = found.get(PARCEL_ITEM)
        if content is None or content.nbytes != nbytes:
            raise DataLoss(f"the parcel of the answer has not '{name}' as it was announced")
        return content.view(dtype).reshape(tuple(tensor.shape))

    def _receive(self, key: str, nbytes: int, deadline: float | None) -> dict[str, Array]:
        from runtime.transport.parcel import Receiver

        receiver = Receiver(key, nbytes, may_share=False)
        self._exchange(receiver, deadline, "the fetches of the step")
        return receiver.result()

    def _exchange(self, end: Sender | Receiver, deadline: float | None, what: str) -> None:
        from runtime.transport.calls import STEP_TENSORS, Way, exchange

        async def work() -> None:
            loop, this = asyncio.get_running_loop(), asyncio.current_task()
            assert this is not None
            with self._watched.awaiting(lambda: f"the transfer of {what} ({end.describe()})",
                                        lambda: loop.call_soon_threadsafe(this.cancel)) as wait:
                try:
                    await carry()
                except asyncio.CancelledError:
                    if wait.lost is None:
                        raise
                    raise wait.lost from None

        async def carry() -> None:
            try:
                async with asyncio.timeout(_left(deadline)) as bound:
                    await exchange(end, Way.to(self._target, self._access, STEP_TENSORS), _RESUME_S)
            except TimeoutError:
                if not bound.expired():
                    raise
                raise DeadlineExceeded(f"{what} were not carried in time by {self._target}: {end.describe()}") from None

        _run(work())


def _nbytes(tensor: wire.runtime_v1.ElsewhereTensor, dtype: np.dtype[Any]) -> int:
    count = 1
    for size in tensor.shape:
        count *= size
    return int(count * dtype.itemsize)


def _left(deadline: float | None) -> float | None:
    return None if deadline is None else max(deadline - time.monotonic(), 0.001)


def _run(work: Coroutine[Any, Any, _T]) -> _T:
    """Run a coroutine to its end, in a loop of its own; in another thread where this one has a loop already."""
    from runtime.edge import loops

    def here_and_now() -> _T:
        with asyncio.Runner(loop_factory=lambda: loops.new_loop("auto")) as runner:
            return runner.run(work)

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return here_and_now()
    outcome: Future[_T] = Future()

    def there() -> None:
        try:
            outcome.set_result(here_and_now())
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=there, name="tensor-runtime-feeds", daemon=True).start()
    return outcome.result()
