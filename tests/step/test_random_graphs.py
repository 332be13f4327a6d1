"""Random graphs: both executors, a plain Python program, and TensorFlow itself agree on them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from runtime._ext.executor import DeadFetch, Program
from tests import peers
from tests.step.maker import Runner
from tests.step.random_graphs import RandomGraph


def _feeds(graph: RandomGraph) -> dict[str, np.ndarray]:
    return {name: np.array(value, np.int32) for name, value in graph.feeds.items()}


@pytest.mark.parametrize("seed", range(60))
def test_straight_lines_and_dataflow_agree(seed):
    graph = RandomGraph(seed, control_flow=False, size=30)
    runner = Runner(graph.maker)
    assert isinstance(runner.compile(list(graph.feeds), graph.fetches).executor, Program)
    expected = graph.expected()
    assert runner.run(graph.fetches, _feeds(graph)) == expected
    assert runner.by_dataflow(graph.fetches, _feeds(graph)) == expected


@pytest.mark.parametrize("seed", range(150))
def test_control_flow_computes_what_the_program_says(seed):
    graph = RandomGraph(seed)
    runner = Runner(graph.maker)
    expected = graph.expected()
    assert runner.run(graph.fetches, _feeds(graph)) == expected
    dead = graph.dead_fetch
    if dead is not None:
        with pytest.raises(DeadFetch):
            runner.run([*graph.fetches, dead], _feeds(graph))


# Without TensorFlow's graph optimizer, which computes something else for a few of these graphs.
_PEER = """
import json, sys
import tensorflow as tf
config = tf.compat.v1.ConfigProto()
config.graph_options.rewrite_options.disable_meta_optimizer = True
config.graph_options.optimizer_options.opt_level = -1
for line in open(sys.argv[1]):
    case = json.loads(line)
    graph_def = tf.compat.v1.GraphDef.FromString(bytes.fromhex(case["graph"]))
    with tf.Graph().as_default() as graph:
        tf.import_graph_def(graph_def, name="")
        with tf.compat.v1.Session(graph=graph, config=config) as session:
            feeds = dict(case["feeds"])
            values = [int(value) for value in session.run(case["fetches"], feeds)]
            dead = False
            if case["dead"]:
                try:
                    session.run(case["dead"], feeds)
                except tf.errors.InvalidArgumentError:
                    dead = True
            print("RESULT", json.dumps([values, dead]), flush=True)
"""


def test_tensorflow_computes_the_same(tmp_path: Path):
    """The same GraphDefs in a session of TensorFlow's own, one process for all."""
    expected = []
    with open(tmp_path / "cases", "w", encoding="ascii") as cases:
        for seed in range(1000, 1040):
            graph = RandomGraph(seed, size=16)
            values = [int(value) for value in Runner(graph.maker).run(graph.fetches, _feeds(graph))]
            assert values == graph.expected()
            expected.append([values, graph.dead_fetch is not None])
            case = {
                "graph": graph.maker.proto.SerializeToString().hex(),
                "feeds": list(graph.feeds.items()),
                "fetches": graph.fetches,
                "dead": graph.dead_fetch,
            }
            cases.write(json.dumps(case) + "\n")
    lines = peers.run_peer(_PEER, str(tmp_path / "cases")).stdout.splitlines()
    found = [json.loads(line.removeprefix("RESULT ")) for line in lines if line.startswith("RESULT ")]
    assert found == expected
