"""Fuzz the codec for a while: ``python -m tests.fuzz [--seconds S] [--seed N] [--engine own|atheris]``.

The own engine needs nothing and repeats itself for the same seed. Atheris (``pip install atheris``) follows the coverage
of extensions built for it; without such a build it mutates blindly too. Build with the sanitizers (``make sanitize``) to
make reads out of bounds visible.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import tempfile
import time
from pathlib import Path

from tests.fuzz.codec_target import corpus, run_one
from tests.fuzz.mutate import Mutator


def run_own(seconds: float, seed: int) -> int:
    """Run the own engine and return how many messages it tried."""
    mutator = Mutator(corpus(), seed)
    end = time.monotonic() + seconds
    tried = 0
    while tried % 100 or time.monotonic() < end:
        message = mutator.next()
        if run_one(message) and tried % 50 == 0:
            mutator.keep(message)
        tried += 1
    return tried


def run_atheris(seconds: float, seed: int) -> None:
    """Hand over to atheris, which ends the process."""
    atheris = importlib.import_module("atheris")
    with tempfile.TemporaryDirectory() as folder:
        for index, message in enumerate(corpus()):
            (Path(folder) / f"{index}.bin").write_bytes(message)

        def target(data: bytes) -> None:
            run_one(data)  # atheris takes a returned number for a verdict

        atheris.Setup(
            [sys.argv[0], f"-max_total_time={int(seconds)}", f"-seed={seed}", "-max_len=4096", folder], target)
        atheris.Fuzz()


def main() -> None:
    """Run the fuzzer from the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--engine", choices=("own", "atheris"), default="own")
    options = parser.parse_args()
    if options.engine == "atheris":
        run_atheris(options.seconds, options.seed)
    else:
        print(f"{run_own(options.seconds, options.seed)} messages, nothing found")


if __name__ == "__main__":
    main()
