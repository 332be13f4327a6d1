"""Cases of collectives in a group of one; groups of several tasks are in `tests/interop/test_collectives.py`."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from runtime.dtypes import DataType
from tests.ops.case import Case, op_case

KINDS = (np.float32, np.float16, np.float64, np.int32, np.int64)


def cases() -> Iterator[Case]:
    """Yield the cases."""
    one, key = np.int32(1), 0
    for kind in KINDS:
        value = np.arange(6).reshape(2, 3).astype(kind)
        for merge in ("Add", "Max", "Min", "Mul"):
            for final in ("Id", "Div"):
                key += 1
                yield op_case("CollectiveReduceV2", value, one, np.int32(key), np.int32(key), merge_op=merge,
                              final_op=final, Nordering_token=0)
        key += 1
        yield op_case("CollectiveGatherV2", value, one, np.int32(key), np.int32(key), Nordering_token=0)
        yield op_case("CollectiveGather", value, group_size=1, group_key=key, instance_key=key + 1000, shape=(2, 3))
    for kind in (*KINDS, np.bool_):
        value = np.arange(6).reshape(2, 3).astype(kind)
        key += 1
        yield op_case("CollectiveBcastSendV2", value, one, np.int32(key), np.int32(key))
        yield op_case("CollectiveBcastSend", value, group_size=1, group_key=key, instance_key=key + 1000, shape=(2, 3))
    yield op_case("CollectiveBcastRecv", T=DataType.FLOAT, group_size=1, group_key=900, instance_key=900, shape=(2,),
                  text=False)
    yield op_case("CollectiveBcastRecvV2", one, np.int32(901), np.int32(901), np.array([2], np.int32), T=DataType.FLOAT,
                  text=False)

