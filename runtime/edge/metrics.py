"""What a server itself counts and holds: its process, its connections, and what went over which road."""

from __future__ import annotations

import functools
import os
import time
from typing import TYPE_CHECKING

from runtime.machine import descriptor_limit, num_descriptors, num_threads, resident_bytes
from runtime.observe.metrics import PREFIX, Family, Kind, Sample, counter, gauge

if TYPE_CHECKING:
    from runtime.edge.limits import Account
    from runtime.edge.transport import Transport

__all__ = ["edge_families", "process_families", "transfer_families"]


def process_families() -> list[Family]:
    """Return what the process holds; listing its descriptors takes about a microsecond for each."""
    import runtime

    spent = os.times()
    return [
        gauge("build_info", "Which version serves; always 1.", {runtime.__version__: 1}, "version"),
        gauge("process_resident_memory", "Memory that the process holds.", resident_bytes(), unit="bytes"),
        counter("process_cpu", "Processor time of the process.", spent.user + spent.system, unit="seconds"),
        gauge("process_open_descriptors", "Descriptors that the process has open.", num_descriptors()),
        gauge("process_descriptors_limit", "Descriptors that the process may have open.", descriptor_limit()),
        gauge("process_threads", "Threads of the process.", num_threads()),
        gauge("process_start_time", "When the process began, since 1970.", _started_s(), unit="seconds"),
    ]


@functools.cache  # clocks are set: the same process has one start
def _started_s() -> float:
    """Return when the process began; 0 where the system does not tell."""
    try:
        with open("/proc/self/stat", "rb") as file:
            # The name in parentheses may hold anything; the start, in ticks since boot, is field 22.
            ticks = int(file.read().rpartition(b")")[2].split()[19])
        return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, AttributeError):
        return 0.0


def edge_families(account: Account, transport: Transport | None) -> list[Family]:
    """Return what a server's clients have open."""
    families = [
        counter("calls", "Calls whose method was run.", account.num_calls),
        gauge("edge_in_flight", "Bytes of requests and answers that this server holds.", account.used, unit="bytes"),
        gauge("edge_in_flight_limit", "Bytes that the servers of the process may hold before calls are refused.",
              account.limit, unit="bytes"),
    ]
    census = None if transport is None else transport.num_open()
    if census is not None:
        connections, calls = census
        families += [gauge("connections_open", "Connections of clients.", connections),
                     gauge("calls_open", "Calls that have not ended, the one for these metrics included.", calls)]
    return families


def transfer_families() -> list[Family]:
    """Return what went over which road, and what lies in shared memory; of the whole process."""
    from runtime.transport import borrower, lender, segments
    from runtime.transport.roads import Road, Totals, totals

    counted = totals()
    values = [((("direction", direction), ("road", str(road))), counted[direction].get(road, Totals()))
              for direction in counted for road in Road]

    def of_roads(name: str, help_text: str, field: str, unit: str = "") -> Family:
        return Family(f"{PREFIX}{name}{unit and '_'}{unit}", help_text, Kind.COUNTER, unit,
                      tuple(Sample(getattr(found, field), labels) for labels, found in values))

    used, idle = segments.held_bytes()
    return [
        of_roads("transfers", "Tensors that went to other programs or came from them.", "transfers"),
        of_roads("transfer", "What those tensors hold.", "bytes", "bytes"),
        of_roads("transfer", "Time spent on those tensors at this end; side by side counts side by side.", "seconds",
                 "seconds"),
        of_roads("transfer_copies", "Times that a tensor's bytes were copied at this end, without the kernel's copies.",
                 "copies"),
        gauge("shared_memory", "Shared memory of the process, in use and kept for the next tensors.",
              {"used": used, "idle": idle}, "state", "bytes"),
        gauge("shared_memory_limit", "What the shared memory of the process may be.", segments.limit_bytes(),
              unit="bytes"),
        gauge("shared_memory_lent_tensors", "Tensors lent to other programs or waiting to be fetched by them.",
              lender.num_lent()),
        gauge("shared_memory_borrowed_tensors", "Tensors of other programs in use here.", borrower.num_borrowed()),
    ]
