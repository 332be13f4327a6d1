"""Fuzz the codec for a while: ``python -m tests.fuzz [--seconds S] [--seed N]``.

The sequence of messages is the same for the same seed. Run it on a build with the sanitizers (``make sanitize``) to
see reads out of bounds that happen to end well. A coverage-guided engine such as atheris finds nothing to go by in
extensions that are compiled without its instrumentation, which gcc does not have; hence a mutator that knows protobuf.
"""

from __future__ import annotations

import argparse
import time

from tests.fuzz.codec_target import corpus, run_one
from tests.fuzz.mutate import Mutator


def run(seconds: float, seed: int) -> int:
    """Run the fuzz target and return how many messages it was given."""
    mutator = Mutator(corpus(), seed)
    end = time.monotonic() + seconds
    tried = 0
    while tried % 100 or time.monotonic() < end:
        message = mutator.next()
        if run_one(message) and tried % 50 == 0:
            mutator.keep(message)
        tried += 1
    return tried


def main() -> None:
    """Run the fuzzer from the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    print(f"{run(options.seconds, options.seed)} messages, nothing found")


if __name__ == "__main__":
    main()
