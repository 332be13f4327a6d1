"""``tensor-runtime trace`` and ``Session.run(profile=True)``, as a user runs them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import runtime
from runtime import wire
from tests import processes
from tests.observe.test_recorder import Client
from tests.observe.test_timeline import check_format, operations


def trace(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(processes.ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.run([sys.executable, "-m", "runtime.cli", "trace", *arguments], capture_output=True, text=True,
                          timeout=60, cwd=cwd, env={**os.environ, "PYTHONPATH": path})


@pytest.fixture(scope="module")
def metadata() -> Any:
    graph = runtime.Graph()
    x = graph.placeholder("float32", [2], name="x")
    y = graph.square(x + 1.0, name="y")
    found = wire.RunMetadata()
    with runtime.Session(graph=graph) as session:
        session.run(y, {x: np.ones(2, np.float32)}, {"trace_level": wire.RunOptions.FULL_TRACE}, found)
    return found


def test_saved_metadata_becomes_a_timeline(metadata: Any, tmp_path: Path) -> None:
    (tmp_path / "run").write_bytes(metadata.SerializeToString())
    (tmp_path / "stats").write_bytes(metadata.step_stats.SerializeToString())
    done = trace("run", "stats", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "trace.json: 2 steps; open it in ui.perfetto.dev" in done.stdout
    assert any(line.split()[2:3] == ["2"] and line.split()[-2:] == ["Square", "y"] for line in [
        line.replace(" us", "us").replace(" B", "B") for line in done.stdout.splitlines()])
    written = json.loads((tmp_path / "trace.json").read_text())
    check_format(written)
    assert [event["args"]["node"] for event in operations(written)].count("y") == 2
    assert [event["name"] for event in written["traceEvents"] if event.get("cat") == "Step"] == ["run", "stats"]


def test_next_steps_of_a_server_become_a_timeline(server: str, tmp_path: Path) -> None:
    with Client(server):
        done = trace(server, "--steps", "2", "--out", "t.json", "--top", "1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("t.json: 2 steps;")
    written = json.loads((tmp_path / "t.json").read_text())
    check_format(written)
    names = [event["name"] for event in written["traceEvents"] if event.get("cat") == "Step"]
    assert len(names) == 2
    assert all(name.startswith("y:0 (session ") for name in names)


def test_steps_that_do_not_come_are_told(server: str, tmp_path: Path) -> None:
    done = trace(server, "--timeout", "0.2", cwd=tmp_path)
    assert done.returncode == 1
    assert "ran fewer than 1 steps within 0.2 s; 0 ended" in done.stderr
    assert not (tmp_path / "trace.json").exists()


@pytest.mark.parametrize(("source", "text"), [
    ("nothing.pb", "nothing.pb cannot be read: No such file"),
    ("empty", "empty holds no RunMetadata or StepStats message with nodes"),
    ("text", "text holds no RunMetadata or StepStats message with nodes"),
])
def test_wrong_file_is_told(source: str, text: str, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "text").write_text("Once upon a time\n")
    done = trace(source, cwd=tmp_path)
    assert done.returncode == 2
    assert text in done.stderr
    assert "Traceback" not in done.stderr


def test_file_that_cannot_be_written_is_told(metadata: Any, tmp_path: Path) -> None:
    (tmp_path / "run").write_bytes(metadata.SerializeToString())
    done = trace("run", "--out", "no/where.json", cwd=tmp_path)
    assert done.returncode == 2
    assert "no/where.json cannot be written: No such file" in done.stderr


@pytest.mark.parametrize("where", ["in process", "server"])
def test_profile_prints_the_nodes_and_returns_as_usual(where: str, request: pytest.FixtureRequest,
                                                       capsys: pytest.CaptureFixture[str]) -> None:
    target = request.getfixturevalue("server") if where == "server" else None
    graph = runtime.Graph()
    x = graph.placeholder("float32", [2], name="x")
    y = graph.square(x + 1.0, name="y")
    found = wire.RunMetadata()
    with runtime.Session(target, graph) as session:
        result = session.run(y, {x: [1, 2]}, {"timeout_in_ms": 10000}, found, profile=True)
    np.testing.assert_array_equal(result, [4, 9])
    lines = capsys.readouterr().out.splitlines()
    assert re.search(r" in nodes, 1 thread(, peak [\d.]+ (B|KiB))?$", lines[0])
    assert lines[1].split() == ["time", "share", "calls", "output", "new", "op", "node"]
    assert {line.split()[-1] for line in lines[2:]} == {entry.node_name for entry in
                                                       found.step_stats.dev_stats[0].node_stats}
    assert any(line.split()[-2:] == ["Square", "y"] for line in lines)


def test_step_of_tensorflows_server_is_profiled_and_drawn(peer_server: str, tmp_path: Path,
                                                          capsys: pytest.CaptureFixture[str]) -> None:
    graph = runtime.Graph()
    x = graph.placeholder("float32", [64, 64], name="x")
    y = graph.matmul(x, graph.square(x, name="squared"), name="y")
    found = wire.RunMetadata()
    with runtime.Session(peer_server, graph) as session:
        session.run(y, {x: np.ones((64, 64), np.float32)}, None, found, profile=True)
    rows = {line.split()[-1]: line for line in capsys.readouterr().out.splitlines()}
    assert " MatMul " in rows["y"]
    assert "16 KiB" in rows["squared"]
    (tmp_path / "run").write_bytes(found.SerializeToString())
    assert trace("run", cwd=tmp_path).returncode == 0
    check_format(json.loads((tmp_path / "trace.json").read_text()))
