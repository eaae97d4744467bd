"""How the compiled modules are built: setuptools' ``build_ext`` with Cython,
one extension module for each ``.pyx``.

Loaded by path at build time (see ``pyproject.toml``); nothing here is imported by the installed package.
The modules in ``pyproject.toml`` are portable; what is not is added here, on the systems where it can run.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from setuptools import Extension  # type: ignore[import-untyped, unused-ignore]
from setuptools.command.build_ext import build_ext  # type: ignore[import-untyped, unused-ignore]

LINUX = (
    *(
        "drivers.io_uring.driver",
        "drivers.io_uring.features",
        "drivers.readiness.epollset",
        "drivers.epoll.driver",
    ),
    "files.path_ops",
)
WINDOWS = ("drivers.iocp.driver", "port.binding_windows", "port.completion_port_windows", "files.windows")
#: Of those in ``pyproject.toml``: not for Windows.
POSIX = ("transports.pipe", "port.shared_driver", "port.completion_port_posix")
DIRECTIVES = {
    "language_level": 3,
    "cdivision": True,
    "initializedcheck": False,
    # an object that was made without its __init__ raises AttributeError, and crashes nothing
    "nonecheck": True,
    "freethreading_compatible": True,
    "embedsignature": True,
    "auto_pickle": False,
}
#: Run once a file, a connection or a process, or beside a thread switch: compiled for size,
#: which takes less time too.
COLD = {
    *("drivers.io_uring.features", "transports.tls_transport"),
    *(f"files.{name}" for name in ("inotify", "path_ops", "text")),
}
#: Cython's own runtime, once for all modules instead of once in each.
SHARED = "proactorx._cython"
#: No module has typed memoryviews, whose part of that runtime is five times as large as all the rest.
UNUSED_RUNTIME = ["MemoryView"]


def modules_for(platform: str, portable: Iterable[str]) -> list[str]:
    """The compiled modules of a system (``sys.platform``), `portable` being those of ``pyproject.toml``."""
    if platform == "win32":
        left_out = {f"proactorx.{name}" for name in POSIX}
        return [name for name in portable if name not in left_out] + [f"proactorx.{name}" for name in WINDOWS]
    return [*portable, *(f"proactorx.{name}" for name in LINUX if platform.startswith("linux"))]


def translate(extensions: list[Extension], processes: int, **options: Any) -> list[Extension]:
    """Make C of all ``.pyx`` that have changed: the same extensions, and what they share."""
    # Imported here: who only asks for the list of sources (an sdist) needs no Cython,
    # and gets them untouched.
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
    """Adds the drivers of this system and passes everything through Cython."""

    parallel: int | bool | None

    def finalize_options(self) -> None:
        portable = {extension.name: extension for extension in self.distribution.ext_modules or []}
        extensions = [
            portable.get(name) or Extension(name, [f"{name.replace('.', '/')}.pyx"])
            for name in modules_for(sys.platform, portable)
        ]
        # What a module is made of besides its source: a change to it builds again, and the sdist holds it.
        parts = sorted(str(path) for kind in ("pxd", "h") for path in Path("proactorx").rglob(f"*.{kind}"))
        for extension in extensions:
            extension.depends = parts
            extension.include_dirs = ["."]
            if sys.platform == "win32":
                extension.libraries = ["ws2_32"]
        # An sdist holds the sources of all systems:
        # those that are not built on this one are parts of one that is.
        built = {extension.name for extension in extensions}
        others = (f"proactorx.{name}" for name in (*LINUX, *WINDOWS, *POSIX))
        extensions[0].depends = parts + [
            f"{name.replace('.', '/')}.pyx" for name in others if name not in built
        ]
        self.distribution.ext_modules = [*extensions, Extension(SHARED, [])]  # Cython makes all of its source
        super().finalize_options()
        if not self.parallel:
            self.parallel = os.cpu_count() or 1

    def build_extensions(self) -> None:
        """Cython first, on as many processors as there are, and then as many C compilers."""
        made = {module.name: module for module in translate(self.extensions, int(self.parallel or 1))}
        for extension in self.extensions:
            extension.sources = made[extension.name].sources
            if sys.platform != "win32":
                extension.extra_compile_args = self._flags(extension.name)
        # The compilers run side by side: none is to begin with a long one when the others are done.
        self.extensions.sort(key=lambda extension: -Path(extension.sources[0]).stat().st_size)
        super().build_extensions()

    def _flags(self, name: str) -> list[str]:
        level = "-Os" if name == SHARED or name.removeprefix("proactorx.") in COLD else "-O2"
        # Python's own flags ask for debug information, which is three quarters of a module.
        return [level, *([] if self.debug else ["-g0"]), "-fvisibility=hidden", "-Wno-unused-function"]
