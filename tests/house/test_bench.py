"""The command that runs the benchmarks, and what it relies on in each of them."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import grpc
import numpy as np
import pytest

from runtime import wire
from runtime._ext.step_codec import RequestPlan, scan_run_step_response
from runtime.bench.__main__ import PREFIX, subjects
from runtime.bench.__main__ import run as run_bounded
from runtime.bench.goals import GOALS, print_reached, read_reached
from runtime.bench.peers import start_canned
from runtime.bench.report import add_ratios
from tests.peers import ROOT

TIMEOUT_S = 60


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_S)


@pytest.mark.parametrize("subject", subjects())
def test_every_benchmark_writes_json_when_asked(subject: str) -> None:
    done = run(f"runtime.bench.{PREFIX}{subject}", "--help")
    assert done.returncode == 0, done.stderr
    assert "--json" in done.stdout


def test_unknown_benchmark_is_refused_with_those_there_are() -> None:
    done = run("runtime.bench", "stepss")
    assert done.returncode == 2
    assert "no benchmark is called stepss; there are: cluster" in done.stderr


def test_importing_a_benchmark_does_nothing() -> None:
    modules = ", ".join(f"runtime.bench.{PREFIX}{subject}" for subject in subjects())
    done = run("timeit", "-n", "1", "-r", "1", "-s", f"import {modules}", "pass")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def _row(case: str, ours: list[float], peer: list[float]) -> dict[str, object]:
    servers = {
        who: {"p10_us": min(parts), "median_us": max(parts), "p10_parts_us": parts}
        for who, parts in (("ours", ours), ("tensorflow", peer))
    }
    return add_ratios({"case": case, "servers": servers})


def test_spread_is_of_the_parts_of_a_run() -> None:
    row = _row("mlp", [2000.0, 3000.0], [4000.0, 4000.0])
    assert (row["ratio_p10"], row["ratio_median"]) == (0.5, 0.75)
    assert (row["ratio_low"], row["ratio_high"]) == (0.5, 0.75)


def _results(folder: Path) -> None:
    busy = {**_row("mlp-busy", [8000.0], [8000.0]), "slow_down_p10": 2.0}
    training = [_row("mlp", [2000.0, 3000.0], [4000.0, 4000.0]), busy]
    (folder / "training.json").write_text(json.dumps({"rows": training}))
    executor = [{"case": "chain[1000]", "count": 1000, "program": 20.0, "program_parts": [20.0, 30.0],
                 "dataflow": 40.0, "tensorflow": 200.0}]
    (folder / "executor.json").write_text(json.dumps({"rows": executor}))
    roads = [{"case": f"{size} {road}", "road": road, "nbytes": size, "p10_us": size / 10 + 1,
              "p10_parts_us": [size / 9, size / 10]} for road in ("stream", "tcp") for size in (100, 1000)]
    queue = [{"case": "submit[128]", "rate": 10_000.0, "rates": [8_000.0, 10_000.0]},
             {"case": "shell round trip", "servers": {who: {"us": 1.0} for who in ("ours", "ray", "dask", "pool")}}]
    (folder / "commands.json").write_text(json.dumps({"rows": queue}))
    pull = {**_row("RecvTensor[64 MiB]", [8.0], [80.0]), "nbytes": 64 << 20}
    (folder / "transport.json").write_text(json.dumps({"rows": [*roads, pull]}))


def test_goals_are_read_from_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _results(tmp_path)
    reached = {item.goal.case: item for item in read_reached(tmp_path)}
    assert list(reached) == ["chain[1000]", "mlp", "RecvTensor[64 MiB]", "submit[128]", "mlp-busy"]
    assert (reached["RecvTensor[64 MiB]"].figure, reached["RecvTensor[64 MiB]"].holds) == (0.1, True)
    assert (reached["mlp"].ours, reached["mlp"].figure, reached["mlp"].holds) == (2.0, 0.5, True)
    assert (reached["chain[1000]"].low, reached["chain[1000]"].high) == (20.0, 30.0)
    assert (reached["submit[128]"].figure, reached["submit[128]"].high) == (100.0, 125.0)
    assert (reached["mlp-busy"].figure, reached["mlp-busy"].holds) == (2.0, False)
    print_reached(list(reached.values()))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[-1] for line in lines[-5:]] == ["25", "0.50", "0.04", "100", "missed"]


def test_every_goal_names_a_case_that_is_measured() -> None:
    from runtime.bench import (
        bench_cluster,
        bench_codec,
        bench_commands,
        bench_executor,
        bench_steps,
        bench_training,
        bench_transport,
    )

    cases = {"steps": bench_steps.CASES, "training": bench_training.CASES,
             "cluster": [f"{case} {name}" for case in bench_cluster.CASES for name in bench_cluster.CLUSTERS],
             "executor": [*(name for name, *_ in bench_executor.cases()), bench_executor.CANCEL],
             "transport": bench_transport.cases(),
             "commands": bench_commands.cases(),
             "codec": [f"{operation}[{bench_codec._size(nbytes)}]" for operation in ("encode", "decode")
                       for nbytes in bench_codec.SIZES]}
    assert all(goal.case in cases[goal.subject] for goal in GOALS)
    assert all(goal.stretch <= goal.must for goal in GOALS)


def test_results_are_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from runtime.bench.figures import draw

    _results(tmp_path)
    made = draw(tmp_path)
    subjects = ["goals", "commands", "executor", "training", "transport"]
    assert [path.name for path in made] == [f"{subject}.png" for subject in subjects]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in made)


def test_benchmark_that_takes_too_long_is_ended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    began = time.monotonic()
    assert not run_bounded("master", tmp_path / "master.json", limit_s=0.2)
    assert time.monotonic() - began < 10
    assert "master took longer than 0.2 s" in capsys.readouterr().err
    assert not (tmp_path / "master.json").exists()


def test_the_canned_server_answers_steps_of_the_right_shape() -> None:
    """The first step of a size is read, later ones are answered from memory; larger than any window and frame."""
    feeds = np.arange(3 << 20, dtype=np.float32)
    plan = RequestPlan("canned", ["x:0"], ["y:0", "z:0"])
    process, target = start_canned()
    try:
        options = [("grpc.max_receive_message_length", -1)]
        with grpc.insecure_channel(target.removeprefix("grpc://"), options) as channel:
            call = channel.unary_unary("/tensorflow.MasterService/RunStep")
            for _ in range(3):
                names, values, code, _, _ = scan_run_step_response(call(plan.encode([feeds]), timeout=TIMEOUT_S))
                assert (names, code) == (["y:0", "z:0"], 0)
                assert all(value.shape == feeds.shape and not value.any() for value in values)
            create = channel.unary_unary("/tensorflow.MasterService/CreateSession")
            assert wire.CreateSessionResponse.FromString(create(b"", timeout=TIMEOUT_S)).session_handle == "canned"
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
