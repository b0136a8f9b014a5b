"""Extension modules and Cython directives; everything else is in pyproject.toml.

SANYUAN_DEBUG=1 builds with bounds checks and with address and undefined-behaviour sanitizers.
"""

import os
import shutil
import sysconfig
from pathlib import Path

import numpy
from Cython.Build import cythonize
from setuptools import Extension, setup

JOBS = os.cpu_count() or 1
DEBUG = os.environ.get("SANYUAN_DEBUG") == "1"
COMPILER = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()[0]
if shutil.which(COMPILER) is None:
    raise SystemExit(
        f"sanyuan needs a C compiler and found no '{COMPILER}':"
        " apt-get install gcc libc6-dev python3-dev"
    )

DIRECTIVES = {
    "language_level": "3",
    "boundscheck": DEBUG,
    "wraparound": False,
    "cdivision": True,
    "initializedcheck": DEBUG,
    "embedsignature": True,
    "freethreading_compatible": False,
}
SANITIZE = ["-fsanitize=address,undefined", "-fno-omit-frame-pointer", "-g", "-O1"]
COMPILE = SANITIZE if DEBUG else ["-O3", "-g0"]

extensions = [
    Extension(
        f"ledger.{path.stem}",
        [str(path)],
        include_dirs=[numpy.get_include(), "ledger"],
        define_macros=[("NPY_NO_DEPRECATED_API", "NPY_1_7_API_VERSION")],
        extra_compile_args=[*COMPILE, "-fno-strict-aliasing", "-Wno-unused-function"],
        extra_link_args=SANITIZE[:1] if DEBUG else [],
    )
    for path in sorted(Path("ledger").glob("_*.pyx"))
]

setup(
    ext_modules=cythonize(
        extensions,
        compiler_directives=DIRECTIVES,
        nthreads=JOBS,
        # C files of their own: Cython would take those of the fast build for current.
        build_dir="build/debug/c" if DEBUG else None,
    ),
    options={"build_ext": {"parallel": JOBS}},
)
