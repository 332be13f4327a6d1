"""A program of its own that claims leases: ``ADDRESS``, then on standard input one ``LEASE NBYTES MODE`` a line.

It answers each with a line: the sum of the bytes, whether they may be written, or the error. ``hold`` keeps the memory,
``drop`` lets go of it, ``write`` writes into it first, ``release`` lets go of all.
"""

from __future__ import annotations

import sys

import numpy as np

from runtime.errors import Error
from runtime.transport.borrower import claim


def main(address: str) -> None:
    held: list[np.ndarray] = []
    for line in sys.stdin:
        lease, nbytes, mode = line.split()
        if mode == "release":
            held.clear()
            print("released", flush=True)
            continue
        try:
            array = np.frombuffer(claim(address, int(lease), int(nbytes)), np.uint8)
        except Error as error:
            print(type(error).__name__, error.message, flush=True)
            continue
        if mode == "write":
            array[...] = 7
        print(int(array.sum(dtype=np.uint64)), array.flags.writeable, flush=True)
        if mode == "hold":
            held.append(array)
        del array


if __name__ == "__main__":
    main(sys.argv[1])
