"""Cases of tensors that stay with a session under a handle."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from runtime.dtypes import DataType
from tests.ops.case import Case, Run, as_array, graph_case, node
from tests.ops.cases.variables import fed, feeds
from tests.ops.pipeline import WIDE
from tests.ops.values import TYPES

HANDLE = np.array(b"handle;0;/job:localhost/replica:0/task:0/device:CPU:0", object)
"""The first that a session gives out: the node, a number, the device."""


def cases() -> Iterator[Case]:
    """Yield the cases."""
    for kind, value in zip(TYPES, WIDE, strict=True):
        nodes = [*fed(x=value, h=HANDLE), node("GetSessionHandle", "handle", ["x"], T=kind),
                 node("GetSessionTensor", "get", ["h"], dtype=kind), node("DeleteSessionTensor", "delete", ["h"])]
        keep, get, delete = (Run(feeds(x=value), ["handle:0"]), Run(feeds(h=HANDLE), ["get:0"]),
                             Run(feeds(h=HANDLE), [], ["delete"]))
        yield graph_case("GetSessionTensor", kind.label, nodes, get, keep, get, get, delete, get, delete)
        # What it gives cannot be fetched, and TensorFlow has no op that takes it.
        yield graph_case("GetSessionHandleV2", kind.label,
                         [*fed(x=value), node("GetSessionHandleV2", "handle", ["x"], T=kind)],
                         Run(feeds(x=value), [], ["handle"]))
    for label, handle in (("no handle", as_array("")), ("two", as_array(["a", "b"]))):
        nodes = [*fed(h=handle), node("GetSessionTensor", "get", ["h"], dtype=DataType.FLOAT),
                 node("DeleteSessionTensor", "delete", ["h"])]
        yield graph_case("GetSessionTensor", label, nodes, Run(feeds(h=handle), ["get:0"]),
                         Run(feeds(h=handle), [], ["delete"]), text=False)
