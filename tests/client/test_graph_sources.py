"""Graphs for a session: files, bytes, messages, our builder's and TensorFlow's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import text_format

import runtime
from runtime import wire
from runtime.client.graphs import open_graph
from runtime.dtypes import DataType
from runtime.errors import InvalidArgument, NotFound
from tests import peers


@pytest.fixture
def message() -> Any:
    graph = runtime.Graph()
    x = graph.placeholder("float32", [None, 2], name="x")
    graph.reduce_sum(x, 1, name="y")
    return graph.as_graph_def()


def _sum(source: Any) -> list[float]:
    with runtime.Session(graph=source) as session:
        with pytest.raises(InvalidArgument, match=r"Cannot feed tensor 'x:0' \(dtype float, shape \[\?,2\]\)"):
            session.run("y:0", {"x:0": [1, 2, 3]})
        found: list[float] = session.run("y:0", {"x:0": [[1, 2]]}).tolist()
        return found


def test_message(message: Any) -> None:
    assert _sum(message) == [3]


def test_message_is_copied(message: Any) -> None:
    with runtime.Session(graph=message) as session:
        message.node[0].name = "other"
        assert session.run("y:0", {"x": [[1, 2]]}) == [3]


def test_bytes(message: Any) -> None:
    assert _sum(message.SerializeToString()) == [3]
    assert _sum(memoryview(message.SerializeToString())) == [3]


def test_binary_file(message: Any, tmp_path: Path) -> None:
    path = tmp_path / "graph.pb"
    path.write_bytes(message.SerializeToString())
    assert _sum(path) == [3]
    assert _sum(str(path)) == [3]


def test_text_file(message: Any, tmp_path: Path) -> None:
    path = tmp_path / "graph.pbtxt"
    path.write_text(text_format.MessageToString(message))
    assert _sum(path) == [3]


def test_builder_graph_is_the_sessions_graph() -> None:
    graph = runtime.Graph()
    with runtime.Session(graph=graph) as session:
        assert session.graph is graph
    with runtime.Session() as session:
        assert isinstance(session.graph, runtime.Graph)


@pytest.mark.parametrize(
    ("source", "message"),
    [(3, "graph must be a runtime.Graph, a GraphDef message, its bytes, a path or a tf.Graph, got int"),
     (b"\xff\xff\xff", r"the bytes given as graph is no GraphDef \(3 bytes\)")],
)
def test_what_is_no_graph(source: Any, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        runtime.Session(graph=source)


def test_missing_and_broken_files(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        runtime.Session(graph=tmp_path / "nowhere.pb")
    broken = tmp_path / "graph.pbtxt"
    broken.write_text("node { name: }")
    with pytest.raises(InvalidArgument, match="is no GraphDef in text form"):
        runtime.Session(graph=broken)


def test_graph_that_is_not_valid_fails_at_the_first_step() -> None:
    message = wire.GraphDef()
    message.node.add(name="a", op="NoSuchOp")
    with runtime.Session(graph=message) as session, pytest.raises(NotFound, match="NoSuchOp"):
        session.run("a")


def test_types_and_shapes_are_known_from_nodes(message: Any) -> None:
    placeholder = message.node.add(name="any", op="Placeholder")
    placeholder.attr["dtype"].type = wire.DT_INT64
    message.node.add(name="mystery", op="NoSuchOp")
    source = open_graph(message)
    source.sent(*source.news())
    assert source.info("x:0") == (DataType.FLOAT, (None, 2))
    assert source.info("y:0") == (DataType.FLOAT, None)
    assert source.info("any:0") == (DataType.INT64, None)
    for name in ("mystery:0", "x:1", "nowhere:0"):
        assert source.info(name) == (None, None)
    assert not source.has_news


def test_news_are_sent_once() -> None:
    graph = runtime.Graph()
    source = open_graph(graph)
    graph.no_op("a")
    first = source.news()
    graph.no_op("b")  # between the making of the message and the answer to it
    source.sent(*first)
    second = source.news()
    assert [node.name for node in first[0].node] == ["a"]
    assert [node.name for node in second[0].node] == ["b"]


WITH_TENSORFLOW = '''
import sys
sys.path.insert(0, sys.argv[1])
import numpy as np
import tensorflow.compat.v1 as tf
import runtime
from runtime.errors import InvalidArgument

tf.disable_eager_execution()
graph = tf.Graph()
with graph.as_default():
    x = tf.placeholder(tf.float32, [None, 2], name="x")
    w = tf.get_variable("w", initializer=np.float32([[1.0], [2.0]]), use_resource=True)
    y = tf.matmul(x, w)
    start = tf.global_variables_initializer()
with runtime.Session(graph=graph) as session:
    assert session.run(start) is None
    found = session.run({"y": y, "w": w, "name": "x:0"}, {x: [[3, 4]]})
    assert found["y"].tolist() == [[11.0]] and found["w"].tolist() == [[1.0], [2.0]], found
    with graph.as_default():
        z = y * 2.0
    metadata = tf.RunMetadata()
    options = tf.RunOptions(trace_level=tf.RunOptions.FULL_TRACE)
    assert session.run(z, {x: [[3, 4]]}, options, metadata).tolist() == [[22.0]]
    assert metadata.step_stats.dev_stats[0].node_stats
    try:
        session.run(z, {x: [[1, 2, 3]]})
    except InvalidArgument as error:
        assert "shape [?,2]" in str(error), error
    else:
        raise AssertionError("a wrong shape was fed")
    run = session.make_callable([y, start], [x])
    assert run([[1, 1]])[0].tolist() == [[3.0]]
print("fine")
'''


def test_tensorflow_graph_runs_here() -> None:
    try:
        done = peers.run_peer(WITH_TENSORFLOW, str(peers.ROOT))
    except AssertionError as error:
        if "No module named 'ml_dtypes'" in str(error):
            pytest.fail("the peer's interpreter lacks what the package needs")
        raise
    assert done.stdout.strip() == "fine"


def test_import_of_the_session_needs_no_grpc() -> None:
    script = ("import sys, runtime\n"
              "g = runtime.Graph(); s = runtime.Session(graph=g)\n"
              "assert s.run(g.constant(2.0) * 3.0) == 6\n"
              "s.close()\n"
              "assert 'grpc' not in sys.modules and 'asyncio' not in sys.modules, 'loaded without need'\n")
    done = subprocess.run([sys.executable, "-c", script], cwd=peers.ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_arrays_of_the_message_are_not_shared() -> None:
    value = np.ones(3, np.float32)
    graph = runtime.Graph()
    constant = graph.constant(value)
    value[:] = 7
    with runtime.Session(graph=graph) as session:
        np.testing.assert_array_equal(session.run(constant), [1, 1, 1])
