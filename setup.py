"""Build the one package ``runtime`` from the folders of this checkout.

``_ext``, ``proto`` and ``bench`` lie at the top of the tree and are installed as ``runtime._ext``,
``runtime.proto`` and ``runtime.bench``; relative links make the same names work in a checkout.

Environment
-----------
TENSOR_RUNTIME_SANITIZE
    ``1`` builds the extensions with the address and undefined-behaviour sanitizers.
TENSOR_RUNTIME_FAST_BUILD
    ``1`` compiles without optimisation: for a build whose speed does not matter, as when packaging is tested.
TENSOR_RUNTIME_PREBUILT
    ``1`` leaves the extensions out: for an editable install of a checkout in which they were built in place.
TENSOR_RUNTIME_JOBS
    How many extensions are built at once; the number of processors when not set.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy
from Cython.Build import cythonize
from setuptools import Extension, setup

ROOT = Path(__file__).parent.resolve()
FOLDERS = {"runtime": "runtime", "runtime._ext": "_ext", "runtime.proto": "proto", "runtime.bench": "bench"}
LINKED = ("_ext", "proto", "bench")
DESCRIPTORS = ROOT / "proto" / "descriptors.binpb"
PACKAGE_DATA = ("py.typed", "*.pyi", "*.pxd", "*.proto", "*.binpb", "*.txt")


def asked(name: str) -> bool:
    return os.environ.get(name, "0") not in ("", "0")


JOBS = int(os.environ.get("TENSOR_RUNTIME_JOBS", "0")) or len(os.sched_getaffinity(0))

# No -march: the baseline must run on every x86-64, the hot kernels choose their level when they are loaded.
# -ffp-contract=off makes those levels agree bit for bit.
COMPILE_ARGS = ["-O3", "-g0", "-fno-math-errno", "-ffp-contract=off", "-fvisibility=hidden"]
# Loops with choices in them become vector code only where comparisons need not raise flags; nobody reads the flags.
KERNEL_ARGS = ["-fno-trapping-math"]
LINK_ARGS = ["-Wl,-s"]
if asked("TENSOR_RUNTIME_FAST_BUILD"):
    COMPILE_ARGS[0] = "-O0"
if asked("TENSOR_RUNTIME_SANITIZE"):
    CHECKS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer"]
    COMPILE_ARGS = ["-O1", "-g", "-ffp-contract=off", "-fvisibility=hidden", *CHECKS]
    LINK_ARGS = ["-fsanitize=address,undefined"]


def make_links() -> None:
    """Make ``runtime/_ext`` and its like point at the folders, as imports and ``cimport`` need them."""
    for folder in LINKED:
        link = ROOT / "runtime" / folder
        if not link.exists():
            link.symlink_to(Path("..") / folder, target_is_directory=True)


def compile_protos() -> None:
    """Write the descriptor set and the stubs of the message modules, when a ``.proto`` has changed.

    The stubs tell of added, renamed and deleted files, which file times alone would not.
    """
    sources = sorted((ROOT / "proto").rglob("*.proto"))
    stubs = {path.with_name(f"{path.stem}_pb2.pyi") for path in sources}
    leftover = set((ROOT / "proto").rglob("*_pb2.pyi")) - stubs
    newest = max(path.stat().st_mtime_ns for path in sources)
    outputs = [DESCRIPTORS, *stubs]
    if not leftover and all(path.exists() and path.stat().st_mtime_ns >= newest for path in outputs):
        return
    import grpc_tools

    includes = Path(grpc_tools.__file__).parent / "_proto"
    names = [f"runtime/{path.relative_to(ROOT).as_posix()}" for path in sources]
    with tempfile.TemporaryDirectory(dir=ROOT / "proto", prefix=".compile") as folder:
        out = Path(folder)
        options = ["-I.", f"-I{includes}", "--include_imports", f"--descriptor_set_out={out / 'set'}"]
        command = [sys.executable, "-m", "grpc_tools.protoc", *options, f"--pyi_out={out}", *names]
        subprocess.run(command, cwd=ROOT, check=True)
        for path in leftover:
            path.unlink()
        for path in stubs:
            os.replace(out / "runtime" / path.relative_to(ROOT), path)
        os.replace(out / "set", DESCRIPTORS)


def packages() -> dict[str, str]:
    """Return every installed package and the folder it comes from."""
    found: dict[str, str] = {}
    for package, folder in FOLDERS.items():
        for init in sorted((ROOT / folder).rglob("__init__.py")):
            relative = init.parent.relative_to(ROOT / folder)
            if package == "runtime" and relative.parts and relative.parts[0] in LINKED:
                continue
            name = ".".join((package, *relative.parts))
            found[name] = (Path(folder) / relative).as_posix()
    return found


def extensions() -> list[Extension]:
    """Return one extension for each ``.pyx``."""
    if asked("TENSOR_RUNTIME_PREBUILT"):
        return []
    return [
        Extension(
            "runtime." + ".".join(path.relative_to(ROOT).with_suffix("").parts),
            [f"runtime/{path.relative_to(ROOT)}"],
            include_dirs=["_ext", numpy.get_include()],
            define_macros=[("NPY_NO_DEPRECATED_API", "NPY_1_7_API_VERSION")],
            extra_compile_args=COMPILE_ARGS + (KERNEL_ARGS if path.parent.name == "kernels" else []),
            extra_link_args=LINK_ARGS,
        )
        for path in sorted((ROOT / "_ext").rglob("*.pyx"))
    ]


def with_included(headers: list[str]) -> list[str]:
    """Return the headers and, of ours, all that they include: what asks for a new build when it changes."""
    own = ROOT / "_ext"
    found: set[Path] = set()
    pending = [ROOT / header for header in headers]
    while pending:
        path = pending.pop().resolve()
        if path in found or not path.is_file():
            continue
        found.add(path)
        if path.is_relative_to(own):
            # Also those that are included by a macro's name: `#define TRT_LOOPS "kernels/NAME_loops.h"`.
            for name in re.findall(r'^\s*#.*"([^"]+\.h)"', path.read_text(), re.MULTILINE):
                pending += [own / name, path.parent / name]
    return sorted(os.path.relpath(path, ROOT) if path.is_relative_to(ROOT) else str(path) for path in found)


make_links()
compile_protos()
PACKAGES = packages()
MODULES = cythonize(
    extensions(),
    build_dir="build/cython",
    include_path=["."],
    # Other start methods would run this file again in each child.
    nthreads=JOBS if multiprocessing.get_start_method() == "fork" else 0,
    compiler_directives={
        "language_level": "3",
        "embedsignature": False,
        "binding": True,
        "boundscheck": False,
        "wraparound": False,
        "cdivision": True,
    },
)
for module in MODULES:
    # Cython knows the headers that the module and what it cimports name.
    module.depends = with_included(module.depends)
setup(
    packages=list(PACKAGES),
    package_dir=PACKAGES,
    include_package_data=False,
    package_data=dict.fromkeys(PACKAGES, list(PACKAGE_DATA)),
    options={"build_ext": {"parallel": JOBS}},
    ext_modules=MODULES,
)
