"""Mutated Examples: read, or rejected with the one error there is."""

from __future__ import annotations

import numpy as np
import pytest

from runtime._ext.example_codec import ExampleFault, ExampleParser
from tests.fuzz.mutate import Mutator
from tests.ops.example_messages import NO_FLOATS, NO_TEXTS, example, sequence

KEYS, KINDS = [b"s", b"f", b"i"], [1, 2, 3]
CORPUS = [
    example(s=["a", b"\xff\x00"], f=[1.5, -2.0], i=[1, -1, 2**62]),
    example({"s": ["b"], "f": [0.5] * 9, "i": list(range(300))}, packed=False),
    example(s=NO_TEXTS, f=NO_FLOATS, other=[1.0]),
    sequence({"s": ["c"]}, {"s": [["x"], NO_TEXTS], "f": [[1.0, 2.0]], "i": [[3], [4, 5]]}),
]


def run_one(parser: ExampleParser, messages: list[bytes]) -> bool:
    """Parse a batch and check that what came out is of one piece; return whether it could be read."""
    try:
        counts, values, frames, frame_counts, list_values = parser.parse(messages)
    except ExampleFault as fault:
        assert 0 <= fault.example < len(messages)
        assert -1 <= fault.feature < 2 * len(KEYS)
        return False
    for row, array in zip(counts, values, strict=True):
        assert int(np.maximum(row, 0).sum()) == array.size
    for row, lengths, array in zip(frames, frame_counts, list_values, strict=True):
        assert int(np.maximum(row, 0).sum()) == lengths.size
        assert int(np.maximum(lengths, 0).sum()) == array.size
    for array in (*values, *list_values):
        assert array.tobytes() is not None if array.dtype != object else all(type(item) is bytes for item in array)
    return True


@pytest.mark.parametrize("seed", range(3))
def test_mutated_examples_are_read_rightly_or_rejected(seed: int) -> None:
    mutator = Mutator(CORPUS, seed)
    parser = ExampleParser(KEYS, KINDS, KEYS, KINDS)
    readable = 0
    for number in range(20_000):
        message = mutator.next()
        good = run_one(parser, [CORPUS[0], message])
        readable += good
        if good and number % 50 == 0:
            mutator.keep(message)
    assert readable > 2_000


@pytest.mark.parametrize("message", CORPUS)
def test_every_prefix_is_read_or_rejected(message: bytes) -> None:
    parser = ExampleParser(KEYS, KINDS, KEYS, KINDS)
    assert run_one(parser, [message])
    for end in range(len(message)):
        run_one(parser, [message[:end]])
