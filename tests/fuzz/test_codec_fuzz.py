"""A short run of the codec's fuzz target, the same each time; ``python -m tests.fuzz`` runs it for longer."""

from __future__ import annotations

import pytest

from tests.fuzz.codec_target import corpus, run_one
from tests.fuzz.mutate import Mutator


@pytest.mark.parametrize("seed", range(4))
def test_mutated_messages_are_read_rightly_or_rejected(seed: int) -> None:
    mutator = Mutator(corpus(), seed)
    tried = readable = 0
    while tried < 30_000:
        message = mutator.next()
        readable += run_one(message) > 0
        tried += 1
    # A mutator that breaks every message would test the outermost check alone.
    assert readable > tried // 10


def test_the_corpus_itself_is_readable() -> None:
    unreadable = [message.hex() for message in corpus() if not run_one(message)]
    # Of the samples, one has no dtype and one an unknown rank.
    assert len(unreadable) <= 2


def test_the_mutator_repeats_itself() -> None:
    first, second = Mutator(corpus(), 5), Mutator(corpus(), 5)
    assert [first.next() for _ in range(100)] == [second.next() for _ in range(100)]
