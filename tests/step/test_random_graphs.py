"""Random graphs: all ways of running them, a plain Python program, and TensorFlow itself agree on them.

`RandomGraph` writes frames with dead values and control edges; `random_programs.Program` is one program as a straight
line, with functions and with frames. A failure names the seed that makes it again.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from runtime._ext.executor import Dataflow, DeadFetch, Program
from tests import peers
from tests.step.maker import GraphMaker, Runner
from tests.step.random_graphs import RandomGraph
from tests.step.random_programs import FORMS
from tests.step.random_programs import Program as RandomProgram


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
    dead = graph.dead_fetch
    for run in (runner.run, runner.by_dataflow):
        assert run(graph.fetches, _feeds(graph)) == expected
        if dead is not None:
            with pytest.raises(DeadFetch) as caught:
                run([*graph.fetches, dead], _feeds(graph))
            assert caught.value.index == len(graph.fetches)


def test_hardly_any_of_these_graphs_need_frames():
    """Those do in which a side of a conditional lives in all turns of a loop, the last one too."""
    executors = []
    for seed in range(150, 190):
        graph = RandomGraph(seed)
        executors.append(type(Runner(graph.maker).compile(list(graph.feeds), graph.fetches).executor))
    assert executors.count(Program) >= 36, executors


def _program_feeds(program: RandomProgram) -> dict[str, np.ndarray]:
    return {f"{name}:0": value for name, value in program.feeds.items()}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("seed", range(70))
def test_every_form_of_a_program_computes_the_same(seed, form):
    """A straight line, compiled loops and conditionals, and frames; each by its own executor and by dataflow."""
    program = RandomProgram(seed)
    runner = Runner(program.graph(form))
    feeds = _program_feeds(program)
    fetches = [f"{name}:0" for name in program.fetches]
    executor = runner.compile(list(feeds), fetches).executor
    assert isinstance(executor, Program)
    expected = [value.tolist() for value in program.run()]
    assert [value.tolist() for value in runner.run(fetches, feeds)] == expected
    assert [value.tolist() for value in runner.by_dataflow(fetches, feeds)] == expected
    assert [value.tolist() for value in runner.run(fetches, feeds)] == expected  # with frames and cells used before


@pytest.mark.parametrize("seed", range(2000, 2020))
def test_frames_nested_deeply_compute_the_same(seed):
    program = RandomProgram(seed, size=4, depth=6)
    runner = Runner(program.graph("frames"))
    feeds = _program_feeds(program)
    fetches = [f"{name}:0" for name in program.fetches]
    assert isinstance(runner.compile(list(feeds), fetches).executor, (Program, Dataflow))
    expected = [value.tolist() for value in program.run()]
    assert [value.tolist() for value in runner.run(fetches, feeds)] == expected


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
            values = [value.tolist() for value in session.run(case["fetches"], feeds)]
            dead = False
            if case["dead"]:
                try:
                    session.run(case["dead"], feeds)
                except tf.errors.InvalidArgumentError:
                    dead = True
            print("RESULT", json.dumps([values, dead]), flush=True)
"""


def _case(maker: GraphMaker, feeds: dict[str, np.ndarray], fetches: list[str], dead: str | None) -> str:
    made = {
        "graph": maker.proto.SerializeToString().hex(),
        "feeds": [(name, value.tolist()) for name, value in feeds.items()],
        "fetches": fetches,
        "dead": dead,
    }
    return json.dumps(made) + "\n"


def test_tensorflow_computes_the_same(tmp_path: Path):
    """The same GraphDefs in a session of TensorFlow's own, one process for all."""
    expected, what = [], []
    with open(tmp_path / "cases", "w", encoding="ascii") as cases:
        for seed in range(1000, 1040):
            graph = RandomGraph(seed, size=16)
            values = [int(value) for value in Runner(graph.maker).run(graph.fetches, _feeds(graph))]
            assert values == graph.expected()
            expected.append([values, graph.dead_fetch is not None])
            what.append(f"RandomGraph({seed})")
            cases.write(_case(graph.maker, _feeds(graph), graph.fetches, graph.dead_fetch))
        for seed in range(1000, 1030):
            program = RandomProgram(seed)
            values = [value.tolist() for value in program.run()]
            for form in FORMS:
                expected.append([values, False])
                what.append(f"RandomProgram({seed}).graph({form!r})")
                fetches = [f"{name}:0" for name in program.fetches]
                cases.write(_case(program.graph(form), _program_feeds(program), fetches, None))
    lines = peers.run_peer(_PEER, str(tmp_path / "cases")).stdout.splitlines()
    found = [json.loads(line.removeprefix("RESULT ")) for line in lines if line.startswith("RESULT ")]
    assert len(found) == len(expected)
    for name, theirs, ours in zip(what, found, expected, strict=True):
        assert theirs == ours, name
