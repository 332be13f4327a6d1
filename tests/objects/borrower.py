"""A process that borrows from an arena: it locks a byte of the file and writes what it is told, until it is ended.

``python borrower.py FILE LOCK``; a line ``OFFSET BYTE SIZE`` on its standard input has so many of these bytes written.
"""

from __future__ import annotations

import os
import sys

from runtime.objects.locks import lock


def main() -> None:
    """Run until the standard input ends."""
    file = os.open(sys.argv[1], os.O_RDWR)
    lock(file, int(sys.argv[2]))
    print("locked", flush=True)
    for line in sys.stdin:
        offset, byte, size = map(int, line.split())
        os.pwrite(file, bytes([byte]) * size, offset)
        print("written", flush=True)


if __name__ == "__main__":
    main()
