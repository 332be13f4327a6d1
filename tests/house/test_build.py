"""The build keeps what it generates in step with its sources."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet

from tests.peers import ROOT

FLEET = "runtime/proto/fleet/fleet.proto"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the checkout with one small extension, its messages compiled."""
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy2(ROOT / name, tmp_path / name)
    generated = shutil.ignore_patterns("*.so", "*.binpb", "*_pb2.pyi", "__pycache__")
    for name in ("fleet", "health"):
        shutil.copytree(ROOT / "proto" / name, tmp_path / "proto" / name, ignore=generated)
    for name in ("_ext/errors.pyx", "_ext/__init__.py", "proto/__init__.py", "runtime/__init__.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy2(ROOT / name, tmp_path / name)
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench" / "__init__.py").touch()
    build(tmp_path)
    return tmp_path


def build(tree: Path) -> None:
    """Run setup.py far enough to generate what is out of date."""
    command = [sys.executable, "setup.py", "--quiet", "--version"]
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def files(tree: Path) -> dict[str, list[str]]:
    """Return the compiled files with the names of their messages."""
    compiled = FileDescriptorSet.FromString((tree / "proto" / "descriptors.binpb").read_bytes())
    return {file.name: [message.name for message in file.message_type] for file in compiled.file}


def test_links_and_generated_files_are_made(tree: Path) -> None:
    assert os.readlink(tree / "runtime" / "_ext") == "../_ext"
    assert set(files(tree)) == {FLEET, "runtime/proto/health/health.proto"}
    assert "class Machine" in (tree / "proto" / "fleet" / "fleet_pb2.pyi").read_text()
    assert [path.name for path in (tree / "proto").iterdir() if path.name.startswith(".")] == []


def test_nothing_is_generated_again_without_a_change(tree: Path) -> None:
    outputs = [tree / "proto" / "descriptors.binpb", tree / "proto" / "fleet" / "fleet_pb2.pyi"]
    before = [path.stat().st_mtime_ns for path in outputs]
    build(tree)
    assert [path.stat().st_mtime_ns for path in outputs] == before


def test_edited_proto_is_compiled_again(tree: Path) -> None:
    with open(tree / "proto" / "fleet" / "fleet.proto", "a") as file:
        file.write("\nmessage Added {}\n")
    build(tree)
    assert "Added" in files(tree)[FLEET]
    assert "class Added" in (tree / "proto" / "fleet" / "fleet_pb2.pyi").read_text()


def test_deleted_proto_leaves_the_set_and_its_stub_goes(tree: Path) -> None:
    (tree / "proto" / "health" / "health.proto").unlink()
    build(tree)
    assert set(files(tree)) == {FLEET}
    assert not (tree / "proto" / "health" / "health_pb2.pyi").exists()


def test_renamed_proto_is_compiled_under_its_new_name(tree: Path) -> None:
    (tree / "proto" / "fleet" / "fleet.proto").rename(tree / "proto" / "fleet" / "machines.proto")
    build(tree)
    assert set(files(tree)) == {"runtime/proto/fleet/machines.proto", "runtime/proto/health/health.proto"}
    assert not (tree / "proto" / "fleet" / "fleet_pb2.pyi").exists()


def test_module_is_built_again_when_a_header_changes_that_its_header_includes(tree: Path) -> None:
    (tree / "_ext" / "deep.h").write_text("static inline int number(void) { return 1; }\n")
    (tree / "_ext" / "near.h").write_text('#define LOOPS "deep.h"\n#include LOOPS\n')
    (tree / "_ext" / "numbers.pyx").write_text(
        'cdef extern from "near.h":\n    int number()\n\ndef answer():\n    return number()\n'
    )
    assert answer(tree) == "1"
    untouched = next((tree / "_ext").glob("errors*.so"))
    before = untouched.stat().st_mtime_ns
    (tree / "_ext" / "deep.h").write_text("static inline int number(void) { return 2; }\n")
    assert answer(tree) == "2"
    assert untouched.stat().st_mtime_ns == before


def answer(tree: Path) -> str:
    """Build the extensions in place and return what one of them says."""
    say = "from runtime._ext import numbers; print(numbers.answer())"
    environ = {**os.environ, "TENSOR_RUNTIME_FAST_BUILD": "1", "PYTHONPATH": str(tree)}
    for command in (["setup.py", "--quiet", "build_ext", "--inplace"], ["-c", say]):
        done = subprocess.run(
            [sys.executable, *command], cwd=tree, env=environ, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()
