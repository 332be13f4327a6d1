from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from runtime import process_tuning
from tests import processes
from tests.commands.agents import marked
from tests.conformance.taskqueue.client import connect, wait_until


def run(script: str, **environment: str) -> str:
    env = {name: value for name, value in os.environ.items() if name != "GRPC_EXPERIMENTS"}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, env={**env, **environment}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_grpc_version_is_that_of_the_package() -> None:
    import grpc

    assert process_tuning.grpc_version() == grpc.__version__


def test_experiments_are_set_for_tested_versions_only() -> None:
    script = (
        "import os; from runtime import process_tuning as p; {}\n"
        "print(p.tune_grpc(), os.environ.get('GRPC_EXPERIMENTS'))"
    )
    tested = process_tuning.grpc_version().startswith(process_tuning.TESTED_GRPC)
    expected = f"True {process_tuning.GRPC_EXPERIMENTS}" if tested else "False None"
    assert run(script.format("")) == expected
    assert run(script.format("p.grpc_version = lambda: '9.9.9';")) == "False None"


def test_experiments_of_the_user_stay() -> None:
    script = (
        "from runtime import process_tuning as p; p.tune_grpc(); print(__import__('os').environ['GRPC_EXPERIMENTS'])"
    )
    assert run(script, GRPC_EXPERIMENTS="mine") == "mine"


def test_experiments_come_too_late_once_grpc_is_imported() -> None:
    assert run("import grpc; from runtime import process_tuning as p; print(p.tune_grpc())") == "False"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mallopt is glibc's")
def test_tuned_malloc_keeps_large_blocks_until_trimmed() -> None:
    script = """
from runtime import process_tuning as p
def resident():
    return int(open('/proc/self/statm').read().split()[1]) * 4096
assert p.tune_malloc()
before = resident()
block = bytearray(64 << 20); block[::4096] = b'x' * len(block[::4096]); del block
kept = resident() - before
p.trim_malloc()
print(kept > 60 << 20, resident() - before < 8 << 20)
"""
    assert run(script) == "True True"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mallopt is glibc's")
def test_blocks_of_some_megabytes_are_kept_unless_the_environment_says_otherwise() -> None:
    script = """
import os, resource
from runtime import process_tuning as p
print(p.keep_medium_blocks())
bytearray(4 << 20)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(50):
    block = bytearray(4 << 20)
    del block
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before < 1100)
"""
    assert run(script).split() == ["True", "True"]
    assert run(script, MALLOC_TRIM_THRESHOLD_="131072", MALLOC_MMAP_THRESHOLD_="131072").split() == ["False", "False"]


def test_blas_works_in_the_calling_thread_alone() -> None:
    script = (
        "import os; from runtime import process_tuning as p\n"
        "for name in p.BLAS_VARIABLES: os.environ.pop(name, None)\n"
        "{}print(p.tune_blas(), os.environ.get(p.BLAS_VARIABLES[0]))"
    )
    assert run(script.format("")) == "True 1"
    assert run(script.format("import numpy; ")) == "False None"
    assert run(script.format("os.environ['OMP_NUM_THREADS'] = '3'; ")) == "False None"


def test_the_command_tunes_before_numpy_is_imported() -> None:
    script = """
import sys
from runtime import process_tuning
def tuned():
    print("numpy" in sys.modules)
    raise SystemExit
process_tuning.tune_blas = tuned
from runtime.cli import main
main(["serve", "--listen", "127.0.0.1:0"])
"""
    assert run(script) == "False"


def test_the_command_tunes_malloc_unless_told_otherwise_and_an_embedded_server_never_does() -> None:
    script = """
import sys
from runtime import process_tuning
calls = []
process_tuning.tune_malloc = lambda: calls.append(1) or False
import runtime
with runtime.Server(services=("graph",)) as server, runtime.Session(server.target) as session:
    session.run(session.graph.constant(1.0))
print(calls)
import asyncio
from runtime.edge import loops
loops.run = lambda loop, work: work.close()
from runtime.cli import main
for option in ("tuned", "default"):
    main(["serve", "--listen", "127.0.0.1:0", "--malloc", option])
    print(calls)
"""
    assert run(script).splitlines() == ["[]", "[1]", "[1]"]


def soft_limit(pid: int) -> int:
    return resource.prlimit(pid, resource.RLIMIT_NOFILE)[0]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the limits of another process")
def test_the_command_may_open_all_descriptors_and_its_workers_what_is_usual(tmp_path: Path) -> None:
    mine = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, mine[1]))
    try:
        with processes.start_server(tmp_path, "--services", "command") as server, connect(server.address) as queue:
            resource.setrlimit(resource.RLIMIT_NOFILE, mine)
            assert soft_limit(server.pid) == mine[1]
            (worker,) = queue.create_workers("local")
            try:
                task = queue.submit("ulimit -Sn")
                assert [entry.log_text for entry in queue.follow(task)] == ["512"]
            finally:
                queue.delete_worker(worker)
                wait_until(lambda: not marked(str(tmp_path / "data" / "workers")), "gone")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, mine)


def test_an_embedded_server_leaves_the_limit_of_descriptors_alone() -> None:
    script = """
import resource
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (512, hard))
import runtime
with runtime.Server(services=("graph",)):
    print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""
    assert run(script) == "512"
