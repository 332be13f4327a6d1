"""The stream on a long fat pipe: it fills it, and goes on after a cut where it was."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import runtime
from runtime import transport
from tests.transport.long_pipe import LongPipe

MIB = 1 << 20
TIMEOUT_S = 100.0
# 200 ms there and back, 40 MB/s: 4 MB are under way in one direction when it is full.
DELAY_S, BYTES_PER_S = 0.1, 40e6
BYTES = 32 * MIB


@pytest.fixture
def pipe() -> Iterator[LongPipe]:
    with runtime.Server(services=("stream",), grace_s=0) as server:
        made = LongPipe(server.address, DELAY_S, BYTES_PER_S)
        try:
            yield made
        finally:
            made.close()


@pytest.mark.parametrize("side", ["sender", "receiver"])
def test_a_parcel_fills_a_long_fat_pipe_and_survives_a_cut(pipe: LongPipe, side: str) -> None:
    array = np.random.default_rng(1).integers(0, 255, BYTES, np.uint8)
    direct = f"grpc://127.0.0.1:{pipe._to[1]}"
    cuts = []

    def cut_once(done: int, total: int) -> None:
        if done > total // 2 and not cuts:
            cuts.append(done)
            pipe.cut()

    with ThreadPoolExecutor(1) as pool:
        got = pool.submit(transport.receive, direct if side == "sender" else pipe.target, timeout_s=TIMEOUT_S,
                          share=False, progress=cut_once)
        transport.send(array, pipe.target if side == "sender" else direct, timeout_s=TIMEOUT_S, share=False)
        assert (got.result() == array).all()
    assert len(cuts) == 1 and pipe.num_connections >= 2
    assert pipe.most_bytes >= pipe.capacity_bytes
