"""The native extensions and nothing else; all that is static stands in pyproject.toml.

Switches, each "1" to turn it on: EVEROPEN_SANITIZE (address and undefined-behaviour sanitizers), EVEROPEN_DEBUG
(Cython's bounds checks), EVEROPEN_COVERAGE (line tracing of nogil code), EVEROPEN_PROBES (the modules in
tests/probes and the bench's loop), EVEROPEN_FUZZ (what tests/fuzz/native feeds, by clang, for libFuzzer; nothing else).
"""

import os
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from Cython.Build import cythonize
from Cython.Compiler import Errors, ExprNodes, PyrexTypes, Symtab
from setuptools import Extension, setup


def switched_on(name: str) -> bool:
    return os.environ.get(f"EVEROPEN_{name}") == "1"


SANITIZE, DEBUG, COVERAGE, PROBES, FUZZ = map(switched_on, ("SANITIZE", "DEBUG", "COVERAGE", "PROBES", "FUZZ"))

# Objects of one variant must never be linked into another, so each has a folder of its own.
SWITCHES = [("asan", SANITIZE), ("debug", DEBUG), ("cov", COVERAGE), ("fuzz", FUZZ)]
VARIANT = "-".join(["native", *(name for name, on in SWITCHES if on)])

COMPILE = ["-O3", "-g1", "-Wall", "-Wno-unused-function", "-Wno-unused-const-variable"]
LINK: list[str] = []
MACROS: list[tuple[str, str | None]] = []
if SANITIZE:
    COMPILE += ["-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer"]
    LINK += ["-fsanitize=address,undefined"]
if FUZZ:
    # The runtimes are in the program that loads the modules. What clang alone warns about is nobody's standard here.
    COMPILE += ["-O1", "-w", "-fsanitize=fuzzer-no-link,address,undefined", "-fno-sanitize-recover=undefined"]
    LINK += ["-fsanitize=fuzzer-no-link,address,undefined"]
if COVERAGE:
    COMPILE += ["-O0"]
    MACROS += [("CYTHON_TRACE_NOGIL", "1")]


def flags_of(library: str, package: str) -> tuple[list[str], list[str]]:
    """What pkg-config says that a library takes to compile and to link; `package` is what Debian calls it."""
    install = f"apt-get install {package} pkg-config"
    if shutil.which("pkg-config") is None:
        raise SystemExit(f"everopen needs pkg-config to find {library}. Install it: {install}")

    def ask(kind: str) -> list[str]:
        answer = subprocess.run(["pkg-config", kind, library], capture_output=True, text=True)
        if answer.returncode != 0:
            raise SystemExit(f"everopen needs {library}, which pkg-config does not find. Install it: {install}")
        return answer.stdout.split()

    return ask("--cflags"), ask("--libs")


# Every extension may use them; the linker drops those that an extension does not.
LINK += ["-Wl,--as-needed"]
for library, package in (("libnghttp2", "libnghttp2-dev"), ("zlib", "zlib1g-dev"), ("openssl", "libssl-dev")):
    compile_flags, link_flags = flags_of(library, package)
    COMPILE += compile_flags
    LINK += link_flags


def extension(name: str, source: str) -> Extension:
    included = sorted(str(path) for pattern in ("_*.pxi", "load/*.pxi") for path in Path("engine").glob(pattern))
    return Extension(
        name, [source], depends=included, extra_compile_args=COMPILE, extra_link_args=LINK, define_macros=MACROS
    )


def translate(extensions: Iterable[Extension], checked: bool) -> list[Extension]:
    """Cython to C. `checked` turns bounds checks on; division stays C's, so that a checked build computes the same."""
    directives: dict[str, Any] = {
        "language_level": 3,
        "cdivision": True,
        "boundscheck": checked,
        "wraparound": False,
        "initializedcheck": checked,
        "linetrace": COVERAGE,
        "show_performance_hints": not checked,
    }
    # The coverage plugin finds the C source only beside the .pyx.
    folder = None if COVERAGE else f"build/{VARIANT}"
    return cythonize(list(extensions), include_path=["engine"], build_dir=folder, compiler_directives=directives)


def refuse_performance_hints() -> None:
    """A hint means that nogil code takes the GIL or asks for an exception on the hot path: it fails the build."""
    report = Errors.performance_hint

    def refuse(position: Any, message: str, env: Any) -> None:
        if report(position, message, env):
            Errors.error(position, "the hint above would slow the hot path, so it counts as an error")

    for module in (Errors, ExprNodes, PyrexTypes, Symtab):
        module.performance_hint = refuse


refuse_performance_hints()
SHIPPED = [Path("engine/_core.pyx")] if FUZZ else sorted(Path("engine").glob("_*.pyx"))
extensions = translate([extension(f"engine.{path.stem}", str(path)) for path in SHIPPED], checked=DEBUG)
if FUZZ:
    extensions += translate([extension("tests.probes.wire_probe", "tests/probes/wire_probe.pyx")], checked=False)
if PROBES:
    probes = sorted(Path("tests/probes").glob("*.pyx"))
    extensions += translate([extension(f"tests.probes.{path.stem}", str(path)) for path in probes], checked=True)
    # Measures what ships, so it is built like it.
    extensions += translate([extension("bench.core_loop", "bench/core_loop.pyx")], checked=DEBUG)

setup(ext_modules=extensions, options={"build_ext": {"build_temp": f"build/{VARIANT}/objects"}})
