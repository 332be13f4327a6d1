"""Other programs that the tests talk to, each in an interpreter of its own.

The package's own environment stays free of TensorFlow and ArmoniK, so that nothing of ours can come to need them.
They are installed once in ``.venv/peer`` by the first test that asks. ``TENSOR_RUNTIME_PEER_PYTHON`` names an
interpreter that has them already.
"""

from __future__ import annotations

import fcntl
import functools
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PEER_FOLDER = ROOT / ".venv" / "peer"
REQUIREMENTS = ("tensorflow-cpu==2.21.*", "armonik>=3.29,<4")
ARMONIK_314_FOLDER = ROOT / ".venv" / "armonik-3.14"
ARMONIK_314 = ("armonik==3.14.0",)
INSTALL_TIMEOUT_S = 900.0
# TensorFlow needs 5 to 10 s to import on an idle machine.
SCRIPT_TIMEOUT_S = 110.0

QUIET = {
    "TF_CPP_MIN_LOG_LEVEL": "2",
    "CUDA_VISIBLE_DEVICES": "-1",
    "TF_ENABLE_ONEDNN_OPTS": "0",
    # Both the old generated code of a peer and its protobuf warn about each other.
    "PYTHONWARNINGS": "ignore",
}


@functools.cache
def peer_python() -> Path:
    """Return an interpreter with TensorFlow and ArmoniK, made now if there is none.

    Safe to call from several processes at once: one installs, the others wait.
    """
    return _interpreter("TENSOR_RUNTIME_PEER_PYTHON", PEER_FOLDER, REQUIREMENTS)


@functools.cache
def armonik_314_python() -> Path:
    """Return an interpreter with the last ArmoniK client that has classes for the Submitter; as `peer_python`."""
    return _interpreter("TENSOR_RUNTIME_ARMONIK_PYTHON", ARMONIK_314_FOLDER, ARMONIK_314)


def _interpreter(variable: str, folder: Path, requirements: tuple[str, ...]) -> Path:
    given = os.environ.get(variable)
    if given:
        python = Path(given)
        if not python.exists():
            raise FileNotFoundError(f"{variable} names {given}, which does not exist")
        return python
    python = folder / "bin" / "python"
    stamp = folder / ".complete"
    wanted = "\n".join((sys.version, *requirements))
    folder.parent.mkdir(exist_ok=True)
    with open(folder.parent / f"{folder.name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not stamp.exists() or stamp.read_text() != wanted:
            _install(python, folder, requirements)
            stamp.write_text(wanted)
    return python


def _install(python: Path, folder: Path, requirements: tuple[str, ...]) -> None:
    print(f"installing {', '.join(requirements)} in {folder}", file=sys.stderr, flush=True)
    for command in (
        [sys.executable, "-m", "venv", "--clear", str(folder)],
        [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *requirements],
    ):
        subprocess.run(command, check=True, timeout=INSTALL_TIMEOUT_S)


def peer_environment(**extra: str) -> dict[str, str]:
    """Return the environment for a peer's process: this one's, without what is meant for our code, and quiet."""
    meant_for_us = ("PYTHON", "GRPC_", "LD_PRELOAD", "ASAN_", "UBSAN_")
    ours = {name: value for name, value in os.environ.items() if not name.startswith(meant_for_us)}
    return {**ours, **QUIET, **extra}


def run_peer(
    script: str | Path,
    *arguments: str,
    timeout_s: float = SCRIPT_TIMEOUT_S,
    python: Path | None = None,
    **environment: str,
) -> subprocess.CompletedProcess[str]:
    """Run a script in the peer interpreter to its end.

    Parameters
    ----------
    script : str or Path
        Source text, or the path of a file.
    *arguments : str
        What the script finds in ``sys.argv[1:]``.
    timeout_s : float
        Seconds after which the process is killed and :class:`subprocess.TimeoutExpired` raised.
    python : Path, optional
        Another interpreter than that of `peer_python`.
    **environment : str
        Variables set for the process.

    Returns
    -------
    subprocess.CompletedProcess
        With text in ``stdout`` and ``stderr``.

    Raises
    ------
    AssertionError
        The script failed; the message holds what it wrote.
    """
    start = [str(script)] if isinstance(script, Path) else ["-c", script]
    done = subprocess.run(
        [str(python or peer_python()), *start, *arguments],
        env=peer_environment(**environment),
        capture_output=True,
        text=True,
        timeout=timeout_s,
    )
    assert done.returncode == 0, f"the peer script ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


if __name__ == "__main__":
    print(peer_python())
