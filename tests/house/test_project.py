"""Facts that are written down in more than one place of the project must agree."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import tomllib

import pytest

import runtime
from tests import peers
from tests.peers import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_version_is_the_same_everywhere() -> None:
    assert PROJECT["project"]["version"] == runtime.__version__


def test_ci_runs_lint_and_all_tests() -> None:
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & stat.S_IXUSR
    text = "\n".join(line for line in script.read_text().splitlines() if not line.lstrip().startswith("#"))
    once_more = 'make test PYTEST_ARGS="--last-failed --last-failed-no-failures=none"'
    assert re.findall(r"make [^;\n]+", text) == ["make lint", "make test", once_more]


def test_every_promised_make_target_has_a_recipe() -> None:
    promised = ["run", "test", "bench", "lint", "sanitize", "build", "clean"]
    env = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    done = subprocess.run(
        ["make", "--dry-run", *promised], cwd=ROOT, env=env, capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0, done.stderr


def test_main_environment_asks_for_no_peer() -> None:
    extras = PROJECT["project"]["optional-dependencies"].values()
    asked = [*PROJECT["project"]["dependencies"], *(name for extra in extras for name in extra)]
    names = {re.split(r"[^\w-]", requirement)[0].lower() for requirement in asked}
    assert names.isdisjoint({"tensorflow", "tensorflow-cpu", "armonik"})
    assert [re.split(r"[=<>]", name)[0] for name in peers.REQUIREMENTS] == ["tensorflow-cpu", "armonik"]


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a git checkout")
def test_no_file_is_a_link_or_large() -> None:
    listing = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, timeout=30, check=True
    ).stdout
    names = [name for name in listing.split("\0") if name and os.path.lexists(ROOT / name)]
    assert names
    assert [name for name in names if (ROOT / name).is_symlink()] == []
    assert [name for name in names if (ROOT / name).stat().st_size > 200_000] == []
