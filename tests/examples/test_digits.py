"""The digit classifiers of ``examples/``, run as a user runs them."""

from __future__ import annotations

import json
import os
import pty
import re
import struct
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from tests import peers

EXAMPLES = peers.ROOT / "examples"
TIMEOUT_S = 100.0
# Both servers compute in single precision and order their sums differently; Adam divides by the root of small
# numbers. Over 440 steps 3e-7 was seen.
LOSS_TOLERANCE = 1e-5
TF_EPOCHS = 10


def run(script: str, *arguments: str, code: int | None = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([sys.executable, str(EXAMPLES / script), *arguments], capture_output=True, text=True,
                          cwd=peers.ROOT, env={**os.environ, "PYTHONPATH": _python_path()}, timeout=TIMEOUT_S)
    assert code is None or done.returncode == code, f"ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def _python_path(*first: Path) -> str:
    return os.pathsep.join([*map(str, first), str(peers.ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])


def _png_size(path: Path) -> tuple[int, int]:
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", data[16:24])
    return width, height


def test_trains_on_a_server_of_its_own(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    pytest.importorskip("matplotlib")
    done = run("digits.py", "--out", str(tmp_path / "out"))
    assert "Handwritten digits: 1438 images to learn from, 359 for the test" in done.stdout
    assert "(started for this)" in done.stdout
    lines = re.findall(r"^ *(\d+)/40  loss ([\d.]+)  train ([\d.]+)  test ([\d.]+)  \d+ steps/s$", done.stdout, re.M)
    assert [int(line[0]) for line in lines] == list(range(4, 41, 4))
    losses = [float(line[1]) for line in lines]
    assert losses[-1] < losses[0] / 10
    accuracy = re.search(r"^test accuracy  ([\d.]+) \(at least 0.95\)$", done.stdout, re.M)
    assert accuracy is not None
    assert float(accuracy[1]) >= 0.95
    assert re.search(r"^speed +\d+ steps/s, 1760 steps in [\d.]+ s$", done.stdout, re.M)
    assert "\x1b" not in done.stdout
    width, height = _png_size(tmp_path / "out" / "digits.png")
    assert width >= 800
    assert height >= 300


def test_trains_on_a_given_server(server: str, tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    pytest.importorskip("matplotlib")
    done = run("digits.py", "--target", server, "--epochs", "3", "--out", str(tmp_path), code=None)
    assert f"server {server}\n" in done.stdout
    assert "132 steps" in done.stdout


def test_progress_bar_in_a_terminal(server: str, tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    pytest.importorskip("matplotlib")
    leader, follower = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": _python_path(), "TERM": "xterm", "PYTHONIOENCODING": "utf-8",
                   "COLUMNS": "100"}
    environment.pop("NO_COLOR", None)
    command = [sys.executable, str(EXAMPLES / "digits.py"), "--target", server, "--epochs", "8", "--out", str(tmp_path)]
    with subprocess.Popen(command, cwd=peers.ROOT, env=environment, stdout=follower, stderr=subprocess.PIPE) as process:
        os.close(follower)
        output = b""
        while True:
            try:
                chunk = os.read(leader, 65536)
            except OSError:  # the other end is closed
                break
            if not chunk:
                break
            output += chunk
        process.wait(TIMEOUT_S)
    os.close(leader)
    text = output.decode()
    bars = re.findall(r"\r\x1b\[2K([^\r]*)", text)
    assert bars
    assert all(len(re.sub(r"\x1b\[[\d;]*m", "", bar).rstrip("\n")) <= 100 for bar in bars)
    assert "━" in bars[0]
    assert "8/8" in bars[-1]
    assert "steps/s" in bars[-1]


@pytest.mark.parametrize("missing", ["sklearn", "matplotlib"])
def test_missing_library_is_told(missing: str, tmp_path: Path) -> None:
    if missing == "matplotlib":
        pytest.importorskip("sklearn")
    (tmp_path / missing).mkdir()
    (tmp_path / missing / "__init__.py").write_text(f"raise ImportError(\"No module named '{missing}'\")")
    done = subprocess.run([sys.executable, str(EXAMPLES / "digits.py"), "--target", "grpc://127.0.0.1:1"], text=True,
                          capture_output=True, env={**os.environ, "PYTHONPATH": _python_path(tmp_path)}, timeout=60)
    assert done.returncode == 1
    assert "pip install 'tensor-runtime[examples]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_missing_server_is_told(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    pytest.importorskip("matplotlib")
    done = run("digits.py", "--target", "grpc://127.0.0.1:9", "--out", str(tmp_path), code=1)
    assert "Unavailable: " in done.stderr
    assert "grpc://127.0.0.1:9 cannot be reached" in done.stderr
    assert "Traceback" not in done.stderr


def _images(path: Path) -> None:
    """Write pictures of ten kinds, each a pattern with noise, when scikit-learn's digits are not at hand."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        rng = np.random.default_rng(3)
        labels = rng.integers(0, 10, 1797)
        images = np.clip(rng.integers(0, 17, (10, 64))[labels] + rng.normal(0, 4, (1797, 64)), 0, 16)
        np.savez(path, images=images, labels=labels)
    else:
        digits = load_digits()
        np.savez(path, images=digits.data, labels=digits.target)


def _train_with_tensorflow(targets: Sequence[str], data: Path) -> list[list[dict[str, float]]]:
    """Return the lines that an unmodified TensorFlow client wrote for each server, one process after the other."""
    answers = []
    for target in targets:
        done = subprocess.run(
            [str(peers.peer_python()), str(EXAMPLES / "digits_tf.py"), target, "--data", str(data),
             "--epochs", str(TF_EPOCHS)],
            env=peers.peer_environment(), capture_output=True, text=True, timeout=TIMEOUT_S)
        assert done.returncode == 0, done.stderr
        answers.append([json.loads(line) for line in done.stdout.splitlines()])
    return answers


@pytest.mark.timeout(300)
def test_tensorflow_client_trains_alike_on_both_servers(server: str, peer_server: str, tmp_path: Path) -> None:
    _images(tmp_path / "digits.npz")
    ours, theirs = _train_with_tensorflow([server, peer_server], tmp_path / "digits.npz")
    assert len(ours) == len(theirs) == TF_EPOCHS * 44 + 1
    for mine, other in zip(ours[:-1], theirs[:-1]):
        assert mine["step"] == other["step"]
        assert mine["loss"] == pytest.approx(other["loss"], rel=LOSS_TOLERANCE, abs=LOSS_TOLERANCE), mine["step"]
    assert ours[-2]["loss"] < ours[0]["loss"] / 10
    assert ours[-1]["steps"] == theirs[-1]["steps"] == TF_EPOCHS * 44
    assert ours[-1]["test_accuracy"] == pytest.approx(theirs[-1]["test_accuracy"], abs=1 / 359)
    assert ours[-1]["test_accuracy"] >= 0.95
