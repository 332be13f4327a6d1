"""Measure one call on several servers in turns; used by the programs beside it."""

import os
import time

# Long enough to be no switching test, short enough that a slow phase of the machine hits every server.
BLOCK_S = 0.05
PARTS = 5


def percentile(values, fraction):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * fraction))]


def summary(times):
    """Return p10, median and mean in microseconds, the p10 of each fifth of the run, and the number of calls."""
    count = len(times)
    edges = [count * part // PARTS for part in range(PARTS + 1)]
    parts = [times[start:end] for start, end in zip(edges, edges[1:]) if start < end]
    return {
        "p10_us": percentile(times, 0.1) * 1e6,
        "median_us": percentile(times, 0.5) * 1e6,
        "mean_us": sum(times) / count * 1e6,
        "p10_parts_us": [percentile(part, 0.1) * 1e6 for part in parts],
        "calls": count,
    }


def cpu_seconds(pid):
    """Return the processor time that a process has used."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        fields = file.read().rpartition(b")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(calls, seconds, pids, warm_up=5):
    """Call every function in turn, in short blocks, for `seconds` each.

    Returns the times of all calls by name, and the processor time of a server per call in microseconds by name.
    """
    times = {name: [] for name in calls}
    for call in calls.values():
        for _ in range(warm_up):
            call()
    used = {name: cpu_seconds(pids[name]) for name in calls}
    spent = dict.fromkeys(calls, 0.0)
    while min(spent.values()) < seconds:
        for name, call in calls.items():
            block = 0.0
            while block < BLOCK_S:
                start = time.perf_counter()
                call()
                took = time.perf_counter() - start
                times[name].append(took)
                block += took
            spent[name] += block
    return times, {name: (cpu_seconds(pids[name]) - used[name]) / len(times[name]) * 1e6 for name in calls}
