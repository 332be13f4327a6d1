"""What ran here in steps, recorded for a while when somebody asks (Tracing), until it is fetched (Logging)."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from runtime._ext.errors import InvalidArgument, Unimplemented

if TYPE_CHECKING:
    from runtime._ext.executor import StepTrace

__all__ = ["StepTraces", "recording_s"]

logger = logging.getLogger(__name__)

MAX_RECORDING_S = 3600.0
# Nobody fetches what is older; a trace keeps the nodes of its graph alive.
KEPT_S = 600.0
_MAX_STEPS = 1000
_MAX_NODES = 200_000


class StepTraces:
    """The traces of the last steps that ran while they were recorded. Safe from several threads."""

    def __init__(self) -> None:
        self._until = 0.0
        self._steps: OrderedDict[int, list[tuple[StepTrace, str]]] = OrderedDict()
        self._num_nodes = 0
        self._lock = threading.Lock()

    def record(self, seconds: float) -> None:
        """Record the steps that begin from now on for so long, whatever was said before; 0 ends it."""
        self._until = time.monotonic() + seconds

    @property
    def is_recording(self) -> bool:
        """Tell whether a step that begins now is to be recorded."""
        return self._until > 0.0 and time.monotonic() < self._until

    def drop_old(self, kept_s: float = KEPT_S) -> None:
        """Forget everything when so many seconds have passed since the end of the recording."""
        if self._steps and time.monotonic() - self._until >= kept_s:
            self.clear()

    def add(self, step_id: int, trace: StepTrace, device: str) -> None:
        """Keep the trace of a step, or of a part of one, that has ended on a device."""
        with self._lock:
            self._steps.setdefault(step_id, []).append((trace, device))
            self._num_nodes += len(trace.events)
            while len(self._steps) > _MAX_STEPS or (self._num_nodes > _MAX_NODES and len(self._steps) > 1):
                _, oldest = self._steps.popitem(last=False)
                self._num_nodes -= sum(len(one.events) for one, _ in oldest)
        logger.info("step traced", extra={"step": step_id, "nodes": len(trace.events)})

    def fetch(self, step_ids: Iterable[int]) -> list[tuple[int, Any]]:
        """Take out the recorded steps of these numbers, each as a StepStats message."""
        from runtime.step.stats import step_stats

        found = []
        with self._lock:
            for step_id in step_ids:
                parts = self._steps.pop(step_id, None)
                if parts is not None:
                    self._num_nodes -= sum(len(trace.events) for trace, _ in parts)
                    found.append((step_id, parts))
        answers = []
        for step_id, parts in found:
            first, *others = (step_stats(trace, device) for trace, device in parts)
            for other in others:
                first.dev_stats.extend(other.dev_stats)
            answers.append((step_id, first))
        return answers

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._steps.clear()
            self._num_nodes = 0


def recording_s(options: Any, task: str) -> float:
    """Return for how many seconds a TraceOpts message wants steps recorded; 0 to end it.

    Raises
    ------
    InvalidArgument
        If the duration is none.
    Unimplemented
        If all that it asks for is what this server does not record.
    """
    seconds = float(options.duration)
    if not (math.isfinite(seconds) and 0 <= seconds <= MAX_RECORDING_S):
        raise InvalidArgument(f"TraceOpts.duration is {seconds:g}: it must be 0 (stop recording) to "
                              f"{MAX_RECORDING_S:g} seconds")
    by_step = options.use_step_profiler or options.use_kernel_profiler or options.use_extended_profiler
    for field, what in (("use_gpu_profiler", "the kernels of GPUs"), ("use_sample_profiler", "samples of threads")):
        if getattr(options, field) and not by_step:
            raise Unimplemented(f"Tracing: TraceOpts.{field} asks for {what}, which {task} does not record. With "
                                "use_step_profiler it records every node of every step")
    return seconds
