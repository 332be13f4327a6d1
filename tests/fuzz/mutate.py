"""A mutator of protobuf messages that makes the same sequence for the same seed.

Beside flipping and cutting bytes it knows where the varints of a message may be, and tries the values at which lengths,
counts and tags go wrong.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from tests.ext.tensor_messages import field, tag, varint

# Around the sizes of integers, of a message, and of what fits into a varint of n bytes.
EDGES = [0, 1, 2, 7, 8, 127, 128, 16383, 16384, 2**21, 2**28, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**40, 2**62,
         2**63 - 1, 2**63, 2**64 - 1]


class Mutator:
    """Makes messages out of a corpus.

    Parameters
    ----------
    corpus : sequence of bytes
        Messages to start from; never empty.
    seed : int
    max_bytes : int
        Longer results are cut.
    """

    def __init__(self, corpus: Sequence[bytes], seed: int, max_bytes: int = 4096) -> None:
        self._corpus = list(corpus)
        self._random = random.Random(seed)
        self._max_bytes = max_bytes

    def keep(self, message: bytes) -> None:
        """Add a message that proved interesting to the corpus."""
        self._corpus.append(message)

    def next(self) -> bytes:
        """Return the next message."""
        rng = self._random
        message = rng.choice(self._corpus)
        for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
            message = self._change(message)
        return message[: self._max_bytes]

    def _change(self, message: bytes) -> bytes:
        rng = self._random
        at = rng.randint(0, len(message))
        to = min(len(message), at + rng.choice((0, 1, 1, 2, 4, 16)))
        match rng.randrange(9):
            case 0:  # flip a bit
                if at == len(message):
                    return message + bytes([rng.randrange(256)])
                return message[:at] + bytes([message[at] ^ 1 << rng.randrange(8)]) + message[at + 1 :]
            case 1:  # set bytes
                return message[:at] + rng.randbytes(to - at) + message[to:]
            case 2:  # cut the end off
                return message[:at]
            case 3:  # drop a piece
                return message[:at] + message[to:]
            case 4:  # double a piece
                return message[:to] + message[at:]
            case 5:  # put an edge value where a varint may be
                return message[:at] + varint(rng.choice(EDGES)) + message[to:]
            case 6:  # put in a field
                return message[:at] + field(rng.randrange(1, 20), rng.randbytes(rng.randrange(6))) + message[at:]
            case 7:  # put in a tag
                return message[:at] + tag(rng.randrange(20), rng.randrange(8)) + message[to:]
            case _:  # splice with another
                other = rng.choice(self._corpus)
                return message[:at] + other[rng.randint(0, len(other)) :]
