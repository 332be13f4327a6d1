"""Price an option by simulation: many tasks draw paths, a last one adds them up.

    python examples/option_pricing.py                 starts a server and two workers of its own
    python examples/option_pricing.py --paths 1e8     more paths, a smaller error

The price of a European call is known in closed form (Black and Scholes), so that the result can be checked: the
program ends with status 0 if it is within four standard errors.
"""

from __future__ import annotations

import argparse
import math
import sys
from typing import Any

import numpy as np
from own_workers import server_with_workers

import runtime
from runtime.tasks.worker import Task, worker

SPOT, STRIKE, RATE, VOLATILITY, YEARS = 100.0, 105.0, 0.03, 0.2, 1.0
CHUNK = 250_000


@worker(arrays=True)
def run(task: Task, **arrays: Any) -> dict[str, Any]:
    """Draw ``paths`` prices with ``seed``; without both, add up what the tasks before have drawn."""
    if "seed" not in arrays:
        parts = [task.dependency_arrays(key) for key in task.dependencies]
        return {name: np.sum([part[name] for part in parts], axis=0) for name in ("count", "sum", "squares")}
    left, total, squares = int(arrays["paths"]), 0.0, 0.0
    rng = np.random.default_rng(int(arrays["seed"]))
    while left:
        task.check()  # a task that is canceled ends here
        count = min(left, CHUNK)
        drift = (RATE - VOLATILITY**2 / 2) * YEARS
        ends = SPOT * np.exp(drift + VOLATILITY * math.sqrt(YEARS) * rng.standard_normal(count))
        payoffs = math.exp(-RATE * YEARS) * np.maximum(ends - STRIKE, 0.0)
        total += float(payoffs.sum())
        squares += float(np.square(payoffs).sum())
        left -= count
    return {"count": arrays["paths"], "sum": np.float64(total), "squares": np.float64(squares)}


def exact_price() -> float:
    """Return the price by the formula of Black and Scholes."""
    spread = VOLATILITY * math.sqrt(YEARS)
    d1 = (math.log(SPOT / STRIKE) + (RATE + VOLATILITY**2 / 2) * YEARS) / spread

    def normal(x: float) -> float:
        return (1 + math.erf(x / math.sqrt(2))) / 2

    return SPOT * normal(d1) - STRIKE * math.exp(-RATE * YEARS) * normal(d1 - spread)


def main(arguments: list[str] | None = None) -> int:
    """Price and report; return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--paths", type=float, default=4e6, help="paths in all [4e6]")
    parser.add_argument("--tasks", type=int, default=16, help="tasks that draw them [16]")
    parser.add_argument("--workers", type=int, default=2, help="worker processes [2]")
    options = parser.parse_args(arguments)
    for name in ("tasks", "workers"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} must be at least 1, got {getattr(options, name)}")
    if not 2 * options.tasks <= options.paths <= 1e12:
        parser.error(f"--paths must be from 2 for each task ({2 * options.tasks}) to 1e12, got {options.paths:g}")
    paths = np.int64(options.paths / options.tasks)
    with (
        server_with_workers("option_pricing:run", options.workers) as target,
        runtime.TaskClient(target, arrays=True) as client,
        client.session() as session,
    ):
        parts = session.map({"seed": np.int64(seed), "paths": paths} for seed in range(options.tasks))
        total = session.submit({}, dependencies=parts)
        session.gather([*parts, total], progress=True)
        found = total.result()
    mean = float(found["sum"] / found["count"])
    error = math.sqrt((float(found["squares"] / found["count"]) - mean**2) / float(found["count"]))
    exact = exact_price()
    print(f"{int(found['count']):,} paths: {mean:.4f} +- {error:.4f}, exact {exact:.4f}")
    return 0 if abs(mean - exact) < 4 * error else 1


if __name__ == "__main__":
    sys.exit(main())
