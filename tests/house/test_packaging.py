"""What the sdist and the wheel hold, and that both work away from the checkout.

One build serves the module: a clean copy of the checkout makes the sdist, the unpacked sdist makes the wheel. The
build runs in this environment, as ``make`` sets it up, so that nothing is downloaded.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from runtime import wire
from tests.peers import ROOT

# The build compiles every extension: half a minute alone on the machine, several times that on a busy one.
BUILD_TIMEOUT_S = 900
pytestmark = [
    pytest.mark.packaging,
    pytest.mark.timeout(BUILD_TIMEOUT_S + 60),
    pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a git checkout"),
]

SOURCE_FOLDERS = {"runtime": "runtime", "_ext": "runtime/_ext", "proto": "runtime/proto", "bench": "runtime/bench"}
SHIPPED_SUFFIXES = {".py", ".pyi", ".pxd", ".proto", ".typed", ".txt"}


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    """Run a command without this checkout on its path and return its output."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**env, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=BUILD_TIMEOUT_S,
    )
    assert done.returncode == 0, f"{' '.join(map(str, command))} ended with {done.returncode}\n{done.stdout}"
    return done.stdout


def backend(hook: str, cwd: Path, out: Path) -> str:
    """Call a hook of the build backend, as a build frontend does, and return the name of what it made."""
    script = f"import sys; from setuptools import build_meta; print('made', build_meta.{hook}(sys.argv[1]))"
    lines = run(sys.executable, "-c", script, out, cwd=cwd, TENSOR_RUNTIME_FAST_BUILD="1").splitlines()
    return next(line.removeprefix("made ") for line in reversed(lines) if line.startswith("made "))


@dataclass
class Built:
    tracked: set[str]
    sdist: set[str]
    tree: Path
    wheel_path: Path
    wheel: set[str]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    folder = tmp_path_factory.mktemp("packaging")
    listing = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=ROOT)
    tracked = {name for name in listing.split("\0") if name and (ROOT / name).exists()}
    clean = folder / "clean"
    for name in tracked:
        (clean / name).parent.mkdir(parents=True, exist_ok=True)
        (clean / name).write_bytes((ROOT / name).read_bytes())
    sdist_path = folder / backend("build_sdist", clean, folder)
    with tarfile.open(sdist_path) as archive:
        # Of our own making. Pythons before 3.11.4 know no filters.
        archive.extractall(folder / "unpacked", **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
        members = [member.name for member in archive.getmembers() if member.isfile()]
    (tree,) = (folder / "unpacked").iterdir()
    wheel_path = folder / backend("build_wheel", tree, folder)
    with zipfile.ZipFile(wheel_path) as wheel:
        names = set(wheel.namelist())
    return Built(tracked, {name.split("/", 1)[1] for name in members}, tree, wheel_path, names)


def test_sdist_holds_every_source(built: Built) -> None:
    folders = (*SOURCE_FOLDERS, "tests", "examples", "docs")
    sources = {name for name in built.tracked if name.split("/")[0] in folders}
    sources |= {"pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE", "Makefile"}
    assert sources - built.sdist == set()


def test_sdist_holds_nothing_made_on_this_machine(built: Built) -> None:
    generated = {name for name in built.sdist if name.endswith(("_pb2.pyi", ".binpb"))}
    described = {"PKG-INFO", "setup.cfg"} | {name for name in built.sdist if ".egg-info/" in name}
    assert built.sdist - built.tracked - generated - described == set()
    assert "proto/descriptors.binpb" in generated


def test_wheel_installs_one_top_level_package(built: Built) -> None:
    tops = {name.split("/")[0] for name in built.wheel}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"runtime"}


def test_wheel_holds_no_source_of_compiled_code(built: Built) -> None:
    assert {name for name in built.wheel if name.endswith((".pyx", ".c", ".cpp", ".h", ".pxi"))} == set()


def test_wheel_holds_every_module_stub_and_definition(built: Built) -> None:
    expected = set()
    for name in built.tracked:
        top, _, rest = name.partition("/")
        if top in SOURCE_FOLDERS and Path(name).suffix in SHIPPED_SUFFIXES:
            expected.add(f"{SOURCE_FOLDERS[top]}/{rest}")
        elif top == "_ext" and name.endswith(".pyx"):
            expected.add(f"runtime/{Path(name).with_suffix(sysconfig.get_config_var('EXT_SUFFIX'))}")
        elif top == "proto" and name.endswith(".proto"):
            expected.add(f"runtime/{name.removesuffix('.proto')}_pb2.pyi")
    expected.add("runtime/proto/descriptors.binpb")
    assert expected - built.wheel == set()


def test_installed_wheel_works_outside_the_checkout(built: Built, tmp_path: Path) -> None:
    site = tmp_path / "site"
    with zipfile.ZipFile(built.wheel_path) as wheel:
        wheel.extractall(site)
    modules = sorted(
        name.split(".")[0].replace("/", ".") for name in built.wheel if name.endswith(".so") or "_pb2.py" in name
    )
    script = (
        "import importlib, sys, runtime; from runtime import wire; "
        "[importlib.import_module(name) for name in sys.argv[1:]]; "
        "print(runtime.__file__, len(wire.SERVICES))"
    )
    output = run(sys.executable, "-P", "-c", script, *modules, cwd=tmp_path, PYTHONPATH=str(site))
    assert output.split() == [str(site / "runtime" / "__init__.py"), str(len(wire.SERVICES))]


def test_installed_command_is_declared(built: Built) -> None:
    with zipfile.ZipFile(built.wheel_path) as wheel:
        (entry_points,) = (name for name in built.wheel if name.endswith(".dist-info/entry_points.txt"))
        text = wheel.read(entry_points).decode()
    assert "tensor-runtime = runtime.cli:main" in text


def test_editable_install_uses_the_checkout(built: Built, tmp_path: Path) -> None:
    """One extension stands for all, which would take minutes to compile."""
    tree = tmp_path / "tree"
    others = {path.name for path in (built.tree / "_ext").rglob("*.pyx")} - {"errors.pyx"}
    shutil.copytree(built.tree, tree, symlinks=True, ignore=shutil.ignore_patterns("build", *others))
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv", cwd=tmp_path)
    python = tmp_path / "venv" / "bin" / "python"
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).strip())
    (site / "outer.pth").write_text(sysconfig.get_path("purelib") + "\n")
    options = ["--no-deps", "--no-build-isolation", "--disable-pip-version-check", "--force-reinstall"]
    run(python, "-m", "pip", "install", *options, "-e", tree, cwd=tmp_path)
    imports = "import runtime, runtime._ext.errors as e, runtime.bench as b"
    script = f"{imports}; print(runtime.__file__, e.__file__, b.__file__)"
    found = run(python, "-c", script, cwd=tmp_path).split()
    assert all(Path(name).resolve().is_relative_to(tree.resolve()) for name in found), found
    assert (tmp_path / "venv" / "bin" / "tensor-runtime").exists()
