"""What a server process does to itself before it starts threads: allocator, gRPC experiments, descriptors.

These change the whole process, so only ``tensor-runtime serve`` does them by default. A program that embeds
``runtime.Server`` may call them itself, at its very start.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

# Parameter numbers of mallopt(3).
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_MMAP_MAX = -4
_M_ARENA_MAX = -8
# The largest multiple of a page that the int argument of mallopt holds.
_NEVER = 0x7FFFF000
# What `keep_medium_blocks` takes for medium, and keeps at the end of each heap.
_MEDIUM_BYTES, _KEPT_BYTES = 16 << 20, 64 << 20
_MALLOC_VARIABLES = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")

# gRPC's event engine adds a thread hop to every call: without it a small call to a server takes 0.82 of the time
# (10th percentile). The names are internal to grpcio, so only versions in which this was measured and tested.
TESTED_GRPC = ("1.85.",)
GRPC_EXPERIMENTS = "-event_engine_client,-event_engine_listener,-event_engine_fork"

BLAS_VARIABLES = ("OPENBLAS_NUM_THREADS", "GOTO_NUM_THREADS", "OMP_NUM_THREADS")
"""What OpenBLAS asks for the number of its threads, in this order."""


def tune_malloc() -> bool:
    """Make the allocator keep freed memory for the next large message.

    By default glibc takes every large block fresh from the kernel and gives it back when freed. Touching fresh
    pages runs at about 1.3 GB/s, so for messages of 64 MB the page faults cost several times the copies. One arena
    for all threads lets a block that one thread freed serve another. Memory then stays with the process until
    :func:`trim_malloc`.

    Returns
    -------
    bool
        False where the C library has no mallopt (musl, macOS, Windows); nothing was changed.

    Notes
    -----
    To be called before the first thread starts: threads keep the arena they have.
    """
    libc = _libc()
    mallopt = getattr(libc, "mallopt", None)
    if mallopt is None:
        return False
    done = bool(mallopt(_M_ARENA_MAX, 1)) and bool(mallopt(_M_TRIM_THRESHOLD, _NEVER))
    # glibc before 2.35 refuses thresholds above 32 MiB; no mmap at all has the same effect there.
    return done and (bool(mallopt(_M_MMAP_THRESHOLD, _NEVER)) or bool(mallopt(_M_MMAP_MAX, 0)))


def keep_medium_blocks() -> bool:
    """Make the allocator keep blocks of some megabytes when they are freed, for the next one of their kind.

    A worker reads one payload after the other. Each would come fresh from the kernel otherwise, and touching its pages
    takes longer than reading it. Arenas stay as they are, and so does what is larger.

    Returns
    -------
    bool
        False where the C library has no mallopt, or the environment says what it is to do; nothing was changed.
    """
    mallopt = getattr(_libc(), "mallopt", None)
    if mallopt is None or any(name in os.environ for name in _MALLOC_VARIABLES):
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _MEDIUM_BYTES)) and bool(mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES))


def tune_blas() -> bool:
    """Let numpy's BLAS work in the calling thread alone, unless the environment says how many threads it may use.

    Steps run beside each other, and large products have kernels that share their work over a pool of ours. OpenBLAS'
    own threads wait for each other in busy loops: beside busy processes an LSTM block took 150 times as long.

    Returns
    -------
    bool
        False when numpy is imported already, for which it is too late, or the environment decides.
    """
    if "numpy" in sys.modules or any(name in os.environ for name in BLAS_VARIABLES):
        return False
    os.environ[BLAS_VARIABLES[0]] = "1"
    return True


def trim_malloc() -> bool:
    """Give the free memory at the end of the heap, and free pages inside it, back to the system.

    Takes about a millisecond for 10 MB given back; releases the GIL meanwhile. Returns whether anything was given
    back; False too where the C library cannot.
    """
    trim = getattr(_libc(), "malloc_trim", None)
    return bool(trim(0)) if trim is not None else False


def _libc() -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL(None)
    except (OSError, TypeError):
        return None


# The limit that this process was started with, once it has raised it.
_first_descriptors: int | None = None


def raise_descriptor_limit() -> None:
    """Let this process open as many descriptors as it may at all.

    The usual soft limit, 1024, is there for programs that wait with ``select``. A server has one descriptor for each
    connection, and waits with ``epoll``.

    Notes
    -----
    Children inherit the limit: those that run programs of others are started by :func:`with_first_descriptor_limit`.
    """
    import resource

    global _first_descriptors
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == hard:
        return
    with contextlib.suppress(OSError, ValueError):  # macOS says "no limit" and takes less
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        _first_descriptors = soft


def with_first_descriptor_limit(command: Sequence[str]) -> list[str]:
    """Return a command line that runs another one, in the same process, with the limit that this process began with."""
    if _first_descriptors is None:
        return list(command)
    return ["/bin/sh", "-c", f'ulimit -S -n {_first_descriptors} && exec "$@"', "sh", *command]


def tune_grpc() -> bool:
    """Switch off the gRPC experiments that cost latency, if this grpcio is one in which that was tested.

    To be called before grpc is imported. A value of ``GRPC_EXPERIMENTS`` that the user has set stays.

    Returns
    -------
    bool
        Whether the experiments are now as this function wants them.
    """
    if "GRPC_EXPERIMENTS" in os.environ or "grpc" in sys.modules:
        return os.environ.get("GRPC_EXPERIMENTS") == GRPC_EXPERIMENTS
    if not grpc_version().startswith(TESTED_GRPC):
        return False
    os.environ["GRPC_EXPERIMENTS"] = GRPC_EXPERIMENTS
    return True


def grpc_version() -> str:
    """Return the version of the installed grpcio, empty if there is none, without importing it.

    The package says it in a small file of its own; reading that takes a twentieth of what importlib.metadata does.
    """
    from importlib.util import find_spec

    spec = find_spec("grpc")
    if spec is not None and spec.origin is not None:
        with contextlib.suppress(OSError):
            text = (Path(spec.origin).parent / "_grpcio_metadata.py").read_text("utf-8")
            found = re.search(r'^__version__\s*=\s*"""([^"]+)"""', text, re.MULTILINE)
            if found:
                return found[1]
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("grpcio")
    except PackageNotFoundError:
        return ""
