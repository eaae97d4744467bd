"""Builds the compiled modules: setuptools' ``build_ext`` with Cython, one extension module per ``.pyx``.

Loaded by path at build time (see ``pyproject.toml``); the installed package imports nothing from here. The
modules in ``pyproject.toml`` are portable. This file adds the others on the systems where they can run.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from setuptools import Extension  # type: ignore[import-untyped, unused-ignore]
from setuptools.command.build_ext import build_ext  # type: ignore[import-untyped, unused-ignore]
from setuptools.errors import LinkError  # type: ignore[import-untyped, unused-ignore]

LINUX = (
    *(f"drivers.io_uring.{name}" for name in ("driver", "encode", "features")),
    *("drivers.readiness.epollset", "drivers.epoll.driver"),
    "files.path_ops",
)
WINDOWS = (
    "drivers.iocp.driver",
    "drivers.iocp.encode",
    "port.binding_windows",
    "port.kernel_operations",
    "port.completion_port_windows",
    "files.windows",
)
#: Modules in ``pyproject.toml`` that are not built on Windows.
POSIX = ("transports.pipe", "port.shared_driver", "port.binding_posix", "port.completion_port_posix")
DIRECTIVES = {
    "language_level": 3,
    "cdivision": True,
    "initializedcheck": False,
    # An object made without its __init__ raises AttributeError instead of crashing.
    "nonecheck": True,
    "freethreading_compatible": True,
    "embedsignature": True,
    "auto_pickle": False,
}
#: Compiled for size, which also compiles faster: code that runs once per file, connection or process,
#: or next to a thread switch.
COLD = {
    *("drivers.io_uring.features", "transports.tls_transport", "transports.informed_datagram"),
    *("observe.alarm", "observe.witness", "observe.census", "observe.details"),
    *(f"files.{name}" for name in ("disk_calls", "fast_open", "inotify", "path_ops", "text")),
}
#: Cython's own runtime, shared by all modules.
SHARED = "proactorx._cython"
#: Typed memoryviews, which no module uses, take five times as much of that runtime as all the rest.
UNUSED_RUNTIME = ["MemoryView"]


def modules_for(platform: str, portable: Iterable[str]) -> list[str]:
    """Return the compiled modules of a system (``sys.platform``), given the `portable` ones."""
    if platform == "win32":
        left_out = {f"proactorx.{name}" for name in POSIX}
        return [name for name in portable if name not in left_out] + [f"proactorx.{name}" for name in WINDOWS]
    return [*portable, *(f"proactorx.{name}" for name in LINUX if platform.startswith("linux"))]


def translate(extensions: list[Extension], processes: int, **options: Any) -> list[Extension]:
    """Translate every changed ``.pyx`` to C; return the same extensions with the runtime that they share."""
    # Imported here, because an sdist only lists the sources and needs no Cython.
    from Cython.Build import cythonize

    made: list[Extension] = cythonize(  # type: ignore[no-untyped-call, unused-ignore]
        extensions,
        nthreads=processes,
        compiler_directives=DIRECTIVES,
        shared_utility_qualified_name=SHARED,
        shared_utility_features_disabled=UNUSED_RUNTIME,
        **options,
    )
    return made


class BuildExt(build_ext):  # type: ignore[misc, unused-ignore]
    """Adds the modules of this system, and translates everything with Cython."""

    parallel: int | bool | None

    def finalize_options(self) -> None:
        # An editable install makes this command twice: the second finds what the first has added. A module
        # that is listed twice is compiled by two threads at once, into one object file.
        listed = {extension.name: extension for extension in self.distribution.ext_modules or []}
        added = {SHARED, *(f"proactorx.{name}" for name in (*LINUX, *WINDOWS))}
        portable = [name for name in listed if name not in added]
        extensions = [
            listed.get(name) or Extension(name, [f"{name.replace('.', '/')}.pyx"])
            for name in modules_for(sys.platform, portable)
        ]
        # A change to one of these builds every module again; the sdist contains them.
        parts = sorted(str(path) for kind in ("pxd", "h") for path in Path("proactorx").rglob(f"*.{kind}"))
        for extension in extensions:
            extension.depends = parts
            extension.include_dirs = ["."]
            if sys.platform == "win32":
                extension.libraries = ["ws2_32"]
        # The sdist contains the sources of all systems: those not built here count as parts of one that is.
        built = {extension.name for extension in extensions}
        others = (f"proactorx.{name}" for name in (*LINUX, *WINDOWS, *POSIX))
        extensions[0].depends = parts + [
            f"{name.replace('.', '/')}.pyx" for name in others if name not in built
        ]
        self.distribution.ext_modules = [*extensions, Extension(SHARED, [])]  # Cython generates its source
        super().finalize_options()
        if not self.parallel:
            self.parallel = os.cpu_count() or 1

    def build_extensions(self) -> None:
        """Run Cython on all processors, then C compilers on all processors."""
        made = {module.name: module for module in translate(self.extensions, int(self.parallel or 1))}
        for extension in self.extensions:
            extension.sources = made[extension.name].sources
            extension.define_macros = [("PX_CHECKS", self._checks())]
            if sys.platform != "win32":
                extension.extra_compile_args = self._flags(extension.name)
        # Longest first, so that no compiler starts a long file when the others have finished.
        self.extensions.sort(key=lambda extension: -Path(extension.sources[0]).stat().st_size)
        super().build_extensions()

    def build_extension(self, extension: Extension) -> None:
        """Compile and link; then look whether anything came of it."""
        super().build_extension(extension)
        made = Path(self.get_ext_fullpath(extension.name))
        initializer = f"PyInit_{extension.name.rpartition('.')[2]}"
        # GNU ld takes an empty object file for an empty linker script, and makes a module with nothing in it.
        if initializer.encode() not in made.read_bytes():
            made.unlink()  # or it would count as built
            raise LinkError(
                f"{made} was linked without {initializer}: its object file was empty; build again"
            )

    def _checks(self) -> str:
        """Whether the package checks its own accounts (``ops/checks.h``): not in what is installed."""
        return os.environ.get("PROACTORX_CHECKS") or str(int(bool(self.debug or self.inplace)))

    def _flags(self, name: str) -> list[str]:
        level = "-Os" if name.removeprefix("proactorx.") in COLD else "-O2"
        # Python's own flags include debug information, which is three quarters of a module.
        return [level, *([] if self.debug else ["-g0"]), "-fvisibility=hidden", "-Wno-unused-function"]
