"""A program of its own that lends memory: on standard input ``NBYTES VALUE`` a line, answered by ``ADDRESS LEASE``."""

from __future__ import annotations

import sys

import numpy as np

from runtime.transport import segments
from runtime.transport.lender import lender


def main() -> None:
    for line in sys.stdin:
        nbytes, value = map(int, line.split())
        buffer = segments.pool().take(nbytes)
        np.frombuffer(buffer, np.uint8)[...] = value
        print(lender().address, lender().lend(buffer, False), flush=True)
        del buffer


if __name__ == "__main__":
    main()
