"""Builds fastembed._core, and _core64 from the same files; everything else about the distribution is in pyproject.toml.

FASTEMBED_OPENMP=0 builds without OpenMP (one thread); FASTEMBED_DEBUG=1 with bounds checks, assertions, traps for
undefined behaviour, and symbols; FASTEMBED_SANITIZE=address,undefined (or thread) for the compiler's sanitizers, whose
library must then be loaded first (.ci/memory does); FASTEMBED_COVERAGE=1 counts what runs of C and Cython (.ci/coverage
reads that).
"""

import os
import sys
import sysconfig
from glob import glob

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

OPENMP = os.environ.get("FASTEMBED_OPENMP", "1") != "0"
DEBUG = os.environ.get("FASTEMBED_DEBUG", "0") == "1"
SANITIZE = os.environ.get("FASTEMBED_SANITIZE", "")
COVERAGE = os.environ.get("FASTEMBED_COVERAGE", "0") == "1"

# The same bits on every processor: no contraction to fused multiply-add, no reordering, no -march=native.
UNIX = ["-O3", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off", "-Wno-psabi", "-fvisibility=hidden"]
# A row may start at any multiple of 4 bytes, so alignment is not checked.
TRAPS = ["-fsanitize=undefined", "-fno-sanitize=alignment", "-fsanitize-undefined-trap-on-error"]
UNIX += ["-O1", "-UNDEBUG", *TRAPS] if DEBUG else []
STOPS = ["-O1", "-fno-sanitize=alignment", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer", "-UNDEBUG"]
SANITIZERS = [f"-fsanitize={SANITIZE}", *STOPS] if SANITIZE else []
UNIX += [*SANITIZERS, "-g" if DEBUG or SANITIZE else "-g0"]
FLAGS = {
    "unix": (UNIX, SANITIZERS[:1]),
    "mingw32": (UNIX, []),
    "msvc": (["/O2", "/fp:precise", "/std:c11"], []),
}
OPENMP_FLAGS = {
    "unix": (["-fopenmp"], ["-fopenmp"]),
    "darwin": (["-Xpreprocessor", "-fopenmp"], ["-lomp"]),
    "mingw32": (["-fopenmp"], ["-fopenmp"]),
    "msvc": (["/openmp"], []),
}


class BuildExt(build_ext):
    """Cython, and compiler flags once the compiler is known: not when somebody only asks for metadata."""

    def build_extensions(self):
        directives = {"boundscheck": DEBUG, "initializedcheck": DEBUG}
        made = cythonize(list(self.extensions), compiler_directives=directives, force=True, emit_linenums=COVERAGE)
        for extension, with_c in zip(self.extensions, made, strict=True):
            extension.sources = with_c.sources
        self.force = True  # objects of another configuration may lie in build/
        kind = self.compiler.compiler_type
        compile_flags, link_flags = FLAGS[kind]
        if OPENMP:
            more = OPENMP_FLAGS["darwin" if sys.platform == "darwin" else kind]
            compile_flags, link_flags = compile_flags + more[0], link_flags + more[1]
        if COVERAGE:
            compile_flags, link_flags = [*compile_flags, "-O0", "--coverage"], [*link_flags, "--coverage"]
        for extension in self.extensions:
            extension.extra_compile_args = compile_flags
            extension.extra_link_args = link_flags
        super().build_extensions()

    def build_extension(self, extension):
        shared = self.build_temp
        self.build_temp = os.path.join(shared, extension.name)  # they are made of the same files of C
        super().build_extension(extension)
        self.build_temp = shared


ROWS = "fastembed/_rows/"
SOURCES = [f"{ROWS}rows_{name}.c" for name in ("base", "avx2", "avx512", "select")]


def core(name, macros=()):
    """An extension with the row functions of its own."""
    return Extension(
        f"fastembed.{name}",
        [f"fastembed/{name}.pyx", *SOURCES],
        depends=["fastembed/_core.pyx", *glob("fastembed/_drivers/*.pxi"), *glob(f"{ROWS}*.h")],
        define_macros=[*macros, *LIMITED],
        py_limited_api=bool(LIMITED),
    )


# The stable ABI: one wheel for all Pythons from 3.11 on, where buffers came into it. Free-threaded Pythons have none.
STABLE = not sysconfig.get_config_var("Py_GIL_DISABLED")
LIMITED = [("Py_LIMITED_API", "0x030B0000")] if STABLE else []

setup(
    ext_modules=[core("_core"), core("_core64", [("FE_DOUBLE", "1")])],
    cmdclass={"build_ext": BuildExt},
    options={"bdist_wheel": {"py_limited_api": "cp311"}} if STABLE else {},
)
