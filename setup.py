"""Build the one package ``runtime`` from the folders of this checkout.

``_ext``, ``proto`` and ``bench`` lie at the top of the tree and are installed as ``runtime._ext``,
``runtime.proto`` and ``runtime.bench``; relative links make the same names work in a checkout.
"""

from __future__ import annotations

from pathlib import Path

import numpy
from Cython.Build import cythonize
from setuptools import Extension, setup

ROOT = Path(__file__).parent.resolve()
FOLDERS = {"runtime": "runtime", "runtime._ext": "_ext", "runtime.proto": "proto", "runtime.bench": "bench"}
LINKED = ("_ext", "proto", "bench")


def make_links() -> None:
    for folder in LINKED:
        link = ROOT / "runtime" / folder
        if not link.exists():
            link.symlink_to(Path("..") / folder, target_is_directory=True)


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


COMPILE_ARGS = ["-O3", "-g0", "-fno-math-errno", "-ffp-contract=off", "-fvisibility=hidden"]
LINK_ARGS = ["-Wl,-s"]


def extensions() -> list[Extension]:
    headers = [str(path.relative_to(ROOT)) for path in sorted((ROOT / "_ext").rglob("*.h"))]
    return [
        Extension(
            "runtime." + ".".join(path.relative_to(ROOT).with_suffix("").parts),
            [f"runtime/{path.relative_to(ROOT)}"],
            include_dirs=["_ext", numpy.get_include()],
            define_macros=[("NPY_NO_DEPRECATED_API", "NPY_1_7_API_VERSION")],
            depends=headers,
            extra_compile_args=COMPILE_ARGS,
            extra_link_args=LINK_ARGS,
        )
        for path in sorted((ROOT / "_ext").rglob("*.pyx"))
    ]


make_links()
PACKAGES = packages()
setup(
    packages=list(PACKAGES),
    package_dir=PACKAGES,
    include_package_data=False,
    ext_modules=cythonize(
        extensions(),
        build_dir="build/cython",
        include_path=["."],
        compiler_directives={"language_level": "3", "embedsignature": False, "binding": True,
                             "boundscheck": False, "wraparound": False, "cdivision": True},
    ),
)
