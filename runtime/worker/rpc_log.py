"""What tensors a task has received from others, by step, for as long as a master wants it logged."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

__all__ = ["RpcLog", "Transfer", "add_transfers"]

_MAX_STEPS = 1000
_MAX_TRANSFERS = 100_000
_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Transfer:
    """One received tensor; times in microseconds since the epoch; the road as in `runtime.transport.roads`."""

    edge: str
    sender: str
    receiver: str
    nbytes: int
    started_us: int
    ended_us: int
    road: str

    @property
    def label(self) -> str:
        """Return what a timeline shows of it."""
        seconds = max(self.ended_us - self.started_us, 1) / 1e6
        size = f"{self.nbytes / _MIB:.1f}MB" if self.nbytes >= _MIB / 10 else f"{self.nbytes}B"
        return (f"[{size}] [{self.nbytes * 8 / 1e6 / seconds:.1f}Mb/s] {self.edge} from {self.sender} to "
                f"{self.receiver} by {self.road}")


class RpcLog:
    """The transfers of the last steps. Safe from several threads.

    Attributes
    ----------
    is_enabled : bool
        As masters elsewhere have it; the one in this process uses `hold`.
    """

    def __init__(self) -> None:
        self.is_enabled = False
        self._num_holders = 0
        self._until = 0.0
        self._steps: OrderedDict[int, list[Transfer]] = OrderedDict()
        self._num = 0
        self._lock = threading.Lock()

    def hold(self) -> None:
        """Keep the log on until `let_go`."""
        with self._lock:
            self._num_holders += 1

    def let_go(self) -> None:
        """Take one `hold` back."""
        with self._lock:
            self._num_holders -= 1

    def record(self, seconds: float) -> None:
        """Keep the log on for so long, whatever was said before; 0 ends it."""
        self._until = time.monotonic() + seconds if seconds else 0.0

    def received(self, step_id: int, key: str, nbytes: int, started_us: int, ended_us: int, road: str) -> None:
        """Note a tensor that has arrived, if that is wanted."""
        if not (self.is_enabled or self._num_holders or (self._until and time.monotonic() < self._until)):
            return
        sender, _, receiver, edge, _ = key.split(";")
        with self._lock:
            self._steps.setdefault(step_id, []).append(
                Transfer(edge, sender, receiver, nbytes, started_us, ended_us, road))
            self._num += 1
            while len(self._steps) > _MAX_STEPS or (self._num > _MAX_TRANSFERS and len(self._steps) > 1):
                _, oldest = self._steps.popitem(last=False)
                self._num -= len(oldest)

    def fetch(self, step_ids: Iterable[int]) -> list[tuple[int, list[Transfer]]]:
        """Take out the transfers of these steps."""
        found = []
        with self._lock:
            for step_id in step_ids:
                transfers = self._steps.pop(step_id, [])
                self._num -= len(transfers)
                found.append((step_id, transfers))
        return found

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._steps.clear()
            self._num = 0


def add_transfers(stats: Any, transfers: Iterable[Transfer]) -> None:
    """Add transfers to a StepStats message, in the form that TensorFlow's workers log them: under the receiver."""
    devices = {device.device: device for device in stats.dev_stats}
    for transfer in transfers:
        device = devices.get(transfer.receiver)
        if device is None:
            device = devices[transfer.receiver] = stats.dev_stats.add(device=transfer.receiver)
        took = transfer.ended_us - transfer.started_us
        entry = device.node_stats.add(
            node_name="RecvTensor",
            timeline_label=transfer.label,
            scheduled_micros=transfer.started_us,
            all_start_micros=transfer.started_us,
            op_start_rel_micros=0,
            op_end_rel_micros=took,
            all_end_rel_micros=took,
        )
        description = entry.output.add(slot=0).tensor_description
        description.allocation_description.requested_bytes = transfer.nbytes
