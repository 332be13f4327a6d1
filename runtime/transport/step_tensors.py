"""runtime.v1.StepTensors: what a server takes and gives of the tensors that do not travel in its steps' messages.

Large feeds come before the step they are for, as leases in its message or in a parcel; large fetches, and tensors for
other tasks, leave behind it. What nobody comes for is let go after a while.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime import wire
from runtime._ext.errors import DeadlineExceeded, Error, InvalidArgument, NotFound
from runtime.dtypes import DataType, to_numpy
from runtime.edge.limits import Account
from runtime.transport import elsewhere
from runtime.transport.board import Board
from runtime.transport.elsewhere import Elsewhere
from runtime.transport.lender import CLAIM_TIMEOUT_S, lender
from runtime.transport.parcel import Receiver, Sender, parse
from runtime.transport.place import Place, here
from runtime.transport.service import Meetings

if TYPE_CHECKING:
    from runtime.edge.plane import Handler

__all__ = ["LENT", "PARCEL_ITEM", "Feeds", "StepTensors"]

Array = np.ndarray[Any, Any]

KEPT_S = CLAIM_TIMEOUT_S
"""How long fed tensors wait for their step, answers for their receiver, and either for a stream that broke."""

AT_ONCE_BYTES = 32 << 20
"""What the loop itself copies into shared memory, of a step that turned out to have large fetches."""

PARCEL_ITEM = "0"
"""The name of the one item in a parcel of a single tensor."""

LENT = "lent/"
"""Begins the key of a parcel that holds what a lease is for that could not be claimed."""


class _Fed:
    """Tensors that were sent ahead of their step."""

    def __init__(self, receiver: Receiver, nbytes: int) -> None:
        self.receiver = receiver
        self.nbytes = nbytes
        self.arrays: asyncio.Future[dict[str, Array]] = asyncio.get_running_loop().create_future()
        self.task: asyncio.Task[None] | None = None


class Feeds:
    """Feeds of a step that were elsewhere, and what they hold of the server's bytes in flight."""

    def __init__(self, values: list[Any], account: Account, nbytes: int) -> None:
        self.values = values
        self._account = account
        self._nbytes = nbytes

    def release(self) -> None:
        """Count them no longer; the step has ended."""
        nbytes, self._nbytes = self._nbytes, 0
        self._account.used -= nbytes


class StepTensors:
    """The tensors beside the messages of one server. Everything belongs to its loop.

    Parameters
    ----------
    limit_bytes : int
        What messages and fed tensors may hold at once, of all servers of the process.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._board = Board()
        self._meetings = Meetings(self._board, self._expect, self._find)
        self._account = Account(limit_bytes)
        self._fed: dict[str, _Fed] = {}
        self._kept: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def services(self) -> Mapping[str, Mapping[str, Handler]]:
        """Return the handlers by service and method name."""
        return {"runtime.v1.StepTensors": {"Meet": self.meet, "Send": self._meetings.send,
                                           "Receive": self._meetings.receive}}

    def start(self) -> None:
        """Count what is held with the rest of the process."""
        self._account.open()

    def drain(self) -> None:
        """Let those go who wait for somebody."""
        self._board.close()

    async def stop(self) -> None:
        """Let everything go."""
        self._board.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=5.0)
        self._account.close()

    @property
    def num_held(self) -> int:
        """Return how many parcels wait for their step, or their receiver."""
        return len(self._fed) + len(self._kept)

    async def meet(self, request: bytes, context: Any) -> bytes:
        """Meet: who this is."""
        parse(wire.runtime_v1.MeetRequest, request)
        return wire.runtime_v1.MeetResponse(place=here().message()).SerializeToString()

    # What comes

    def _expect(self, manifest: wire.runtime_v1.Manifest) -> None:
        """Get ready for a parcel of feeds."""
        key = manifest.key
        if key in self._fed:
            return
        if manifest.is_resumed:
            raise NotFound(f"the tensors '{key}' were kept for {KEPT_S:g} s after their stream had broken, and are not "
                           "here any more")
        nbytes = sum(item.nbytes for item in manifest.item)
        if not self._account.fits(nbytes):
            largest = max(manifest.item, key=lambda item: item.nbytes)
            raise self._account.refusal(nbytes, f"feeds sent ahead of a step (the largest has {largest.nbytes} bytes)")
        fed = self._fed[key] = _Fed(Receiver(key, nbytes, may_share=False), nbytes)
        self._account.used += nbytes
        fed.task = self._begin(self._collect(key, fed))

    async def _collect(self, key: str, fed: _Fed) -> None:
        """Receive feeds, and keep them for their step."""
        try:
            await self._board.handle(fed.receiver, KEPT_S, KEPT_S)
            fed.arrays.set_result(fed.receiver.result())
            await asyncio.sleep(KEPT_S)
        except Error as error:
            fed.arrays.set_exception(error)
            fed.arrays.exception()  # there may be no step that asks
        finally:
            if self._fed.get(key) is fed:
                self._let_go(key)

    def _let_go(self, key: str) -> None:
        fed = self._fed.pop(key)
        self._account.used -= fed.nbytes
        if not fed.arrays.done():
            fed.arrays.set_exception(NotFound(f"the tensors '{key}' have not come"))
            fed.arrays.exception()

    async def take(self, told: Elsewhere, values: Sequence[Any], datatypes: Sequence[int], names: Sequence[str]
                   ) -> Feeds | None:
        """Return a step's feeds with those that are elsewhere.

        Parameters
        ----------
        told : Elsewhere
            What the request says.
        values, datatypes, names : sequence
            The feeds of the message.

        Returns
        -------
        Feeds or None
            None when leases cannot be claimed: `elsewhere.REFUSED` is the answer.

        Raises
        ------
        InvalidArgument
            The request says what cannot be.
        NotFound
            Tensors that were sent ahead are not here any more.
        """
        made = list(values)
        for tensor in told.tensors:
            if tensor.index >= len(made) or made[tensor.index].size:
                raise InvalidArgument(f"ElsewhereTensor.index is {tensor.index}; the request has {len(made)} feeds, "
                                      "and there must be an empty one")
        leased = [tensor for tensor in told.tensors if tensor.HasField("lease")]
        if leased:
            place = told.place or Place("", 0, 0)
            loop = asyncio.get_running_loop()
            try:
                for tensor in leased:
                    made[tensor.index] = await loop.run_in_executor(
                        None, elsewhere.claimed, place, tensor, datatypes[tensor.index], f"'{names[tensor.index]}'")
            except elsewhere.OUT_OF_REACH:
                return None
        if len(leased) == len(told.tensors):
            return Feeds(made, self._account, 0)
        arrays, nbytes = await self._sent_ahead(told.key)
        feeds = Feeds(made, self._account, nbytes)
        try:
            for tensor in told.tensors:
                if not tensor.HasField("lease"):
                    what = f"'{names[tensor.index]}'"
                    made[tensor.index] = _of_parcel(arrays, tensor, datatypes[tensor.index], what)
        except BaseException:
            feeds.release()
            raise
        return feeds

    async def _sent_ahead(self, key: str) -> tuple[dict[str, Array], int]:
        fed = self._fed.get(key)
        if fed is None:
            raise NotFound(f"the tensors '{key}' that were sent ahead of the step are not here: they are kept for "
                           f"{KEPT_S:g} s, and used once")
        # The sender hears that everything is there a moment before it is in its place.
        try:
            found = await asyncio.wait_for(asyncio.shield(fed.arrays), KEPT_S)
        except TimeoutError:
            raise DeadlineExceeded(f"the tensors '{key}' of the step have not come within {KEPT_S:g} s: "
                                   f"{fed.receiver.describe()}") from None
        if self._fed.get(key) is not fed:
            raise NotFound(f"the tensors '{key}' that were sent ahead of the step were used by another one")
        del self._fed[key]
        # The task and what it waits for must not hold each other: the memory of these tensors is for the next ones.
        task, fed.task = fed.task, None
        if task is not None:
            task.cancel()
        return found, fed.nbytes

    # What leaves

    async def give(self, told: Elsewhere, outputs: Sequence[Any]) -> tuple[Sequence[Any], bytes]:
        """Return what remains in an answer's message of a step's fetches, and what is put behind it.

        Parameters
        ----------
        told : Elsewhere
            What the request says.
        outputs : sequence of ndarray
        """
        large = elsewhere.large_ones(outputs)
        if not large:
            return outputs, b""
        message = wire.runtime_v1.TensorsElsewhere()
        if told.can_share:
            loop = asyncio.get_running_loop()
            lent = await loop.run_in_executor(None, elsewhere.lend, outputs, large)
            _add_leases(message, lent)
        return self._rest(message, outputs, large)

    def give_at_once(self, told: Elsewhere, outputs: Sequence[Any]) -> tuple[Sequence[Any], bytes]:
        """Return what `give` does without waiting: what would take long leaves in the message, or in a parcel."""
        large = elsewhere.large_ones(outputs)
        if not large:
            return outputs, b""
        message = wire.runtime_v1.TensorsElsewhere()
        if told.can_share and sum(outputs[index].nbytes for index in large) <= AT_ONCE_BYTES:
            _add_leases(message, elsewhere.lend(outputs, large))
        return self._rest(message, outputs, large)

    def _rest(self, message: wire.runtime_v1.TensorsElsewhere, outputs: Sequence[Any], large: Sequence[int]
              ) -> tuple[Sequence[Any], bytes]:
        """Find a road for those that are not lent."""
        lent = {tensor.index for tensor in message.tensor}
        left = [index for index in large if index not in lent]
        if elsewhere.is_worth_a_stream(outputs, left):
            message.key = self.keep({str(index): outputs[index] for index in left})
            message.tensor.extend(wire.runtime_v1.ElsewhereTensor(index=index, shape=outputs[index].shape)
                                  for index in left)
        if not message.tensor:
            return outputs, b""
        return (elsewhere.emptied(outputs, [tensor.index for tensor in message.tensor]), elsewhere.as_field(message))

    def keep(self, arrays: Mapping[str, Array]) -> str:
        """Keep arrays until somebody receives them, and return under which key; they are let go after a while."""
        key = f"kept/{secrets.token_hex(8)}"
        self._keep(key, arrays)
        return key

    def _keep(self, key: str, arrays: Mapping[str, Array]) -> None:
        self._kept.add(key)
        self._begin(self._hand_out(key, Sender(key, arrays, may_share=False)))

    async def _hand_out(self, key: str, sender: Sender) -> None:
        try:
            await self._board.handle(sender, KEPT_S, KEPT_S)
        except Error:
            pass  # whoever receives it hears of that
        finally:
            sender.close()
            self._kept.discard(key)

    def _find(self, standing: wire.runtime_v1.Standing) -> None:
        """Check that there is what is wanted."""
        key = standing.key
        if key.startswith(LENT) and key not in self._kept:
            number = key.removeprefix(LENT)
            returned = lender().revoke(int(number)) if number.isascii() and number.isdigit() else None
            if returned is not None:
                buffer, _ = returned
                self._keep(key, {PARCEL_ITEM: np.frombuffer(memoryview(buffer), np.uint8)})
                return
        if key not in self._kept:
            raise NotFound(f"there is nothing under '{key}': answers are kept for {KEPT_S:g} s, and given out once")

    def _begin(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _add_leases(message: wire.runtime_v1.TensorsElsewhere, lent: elsewhere.Lent) -> None:
    if lent.tensors:
        message.place.CopyFrom(lent.place.message())
        message.tensor.extend(lent.tensors)


def _of_parcel(arrays: Mapping[str, Array], tensor: wire.runtime_v1.ElsewhereTensor, datatype: int, what: str) -> Array:
    """Return the array of a tensor that came in a parcel."""
    array = arrays.get(str(tensor.index))
    dtype = to_numpy(DataType(datatype))
    if array is None:
        raise InvalidArgument(f"{what} is to be in the parcel of the step, and is not")
    if array.dtype != dtype or array.shape != tuple(tensor.shape):
        raise InvalidArgument(f"{what} is {dtype} of {list(tensor.shape)} in the message, and {array.dtype} of "
                              f"{list(array.shape)} in the parcel")
    return array
