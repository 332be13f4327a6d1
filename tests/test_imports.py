"""What importing the package does, and does not do, alone and beside TensorFlow and ArmoniK."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys

import pytest

from tests.peers import ROOT, run_peer

NEIGHBOURS = ("runtime", "tensorflow", "armonik")

# Uses each package right after its import, and all of them together at the end.
USE_ALL = """
import importlib, sys

def use_runtime():
    from runtime import wire
    from runtime._ext import errors
    assert len(wire.SERVICES) >= 11
    graph = wire.GraphDef(node=[wire.NodeDef(name="x", op="NoOp")])
    assert wire.GraphDef.FromString(graph.SerializeToString()) == graph
    options = wire.armonik.TaskOptions(max_retries=3, options={"a": "b"})
    assert wire.armonik.TaskOptions.FromString(options.SerializeToString()) == options
    assert issubclass(errors.InvalidArgument, ValueError)

def use_tensorflow():
    import tensorflow.compat.v1 as tf
    with tf.Graph().as_default(), tf.Session() as session:
        assert session.run(tf.constant([1.0, 2.0]) * 3.0).tolist() == [3.0, 6.0]

def use_armonik():
    from armonik.common import TaskOptions
    from datetime import timedelta
    options = TaskOptions(max_duration=timedelta(seconds=5), priority=1, max_retries=2)
    assert options.to_message().max_retries == 2

for name in sys.argv[1:]:
    importlib.import_module(name)
    globals()["use_" + name]()

for name in sys.argv[1:]:
    globals()["use_" + name]()

import tensorflow.compat.v1 as tf
from google.protobuf import descriptor_pool
from runtime import wire

with tf.Graph().as_default() as graph:
    tf.add(tf.constant([1.0], name="a"), 2.0, name="b")
theirs = graph.as_graph_def()
ours = wire.GraphDef.FromString(theirs.SerializeToString())
assert [node.name for node in ours.node] == [node.name for node in theirs.node]
back = type(theirs).FromString(ours.SerializeToString())
assert back == theirs
assert type(ours) is not type(theirs)
default = descriptor_pool.Default().FindMessageTypeByName("tensorflow.GraphDef")
assert default is theirs.DESCRIPTOR and ours.DESCRIPTOR is not default
print("done", " ".join(sys.argv[1:]))
"""


@pytest.mark.parametrize("order", list(itertools.permutations(NEIGHBOURS)), ids="-".join)
def test_import_beside_tensorflow_and_armonik(order: tuple[str, ...]) -> None:
    done = run_peer(USE_ALL, *order, PYTHONPATH=str(ROOT))
    assert done.stdout.splitlines()[-1] == f"done {' '.join(order)}"


LOOK = """
import json, os, sys
def state():
    return {
        "threads": len(os.listdir("/proc/self/task")),
        "descriptors": sorted(os.listdir("/proc/self/fd")),
        "environment": dict(os.environ),
        "hooks": [str(sys.excepthook), str(sys.getswitchinterval()), str(sys.getrecursionlimit())],
    }
before, loaded = state(), set(sys.modules)
import runtime
names = dir(runtime)
print(json.dumps({"before": before, "after": state(), "new": sorted(set(sys.modules) - loaded), "names": names}))
"""


def test_import_of_runtime_loads_little_and_starts_nothing() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOOK], cwd=ROOT, capture_output=True, text=True, timeout=30, check=True
    )
    seen = json.loads(done.stdout)
    heavy = {"numpy", "google", "grpc", "uvloop", "asyncio", "ml_dtypes", "tensorflow", "scipy", "sqlite3", "ssl"}
    assert heavy.isdisjoint(name.split(".")[0] for name in seen["new"])
    assert seen["after"] == seen["before"]
    assert {"Graph", "Server", "Session"} <= set(seen["names"])


def test_unknown_attribute_of_runtime_is_an_attribute_error() -> None:
    import runtime

    with pytest.raises(AttributeError, match="has no attribute 'Sesion'"):
        _ = runtime.Sesion


def test_wire_leaves_the_default_pool_alone() -> None:
    script = """
from google.protobuf import descriptor_pool
from runtime import wire
for service in wire.SERVICES:
    try:
        descriptor_pool.Default().FindServiceByName(service)
    except KeyError:
        continue
    raise SystemExit(f"{service} is in the default pool")
"""
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, timeout=30, check=True)
