"""How the compiled modules are built: setuptools' ``build_ext`` with Cython, one extension module for each ``.pyx``.

Loaded by path at build time (see ``pyproject.toml``); nothing here is imported by the installed package.
The modules in ``pyproject.toml`` are portable; what is not is added here, on the systems where it can run.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from setuptools import Extension  # type: ignore[import-untyped, unused-ignore]
from setuptools.command.build_ext import build_ext  # type: ignore[import-untyped, unused-ignore]

LINUX = ("drivers.io_uring.driver", "drivers.io_uring.trial", "drivers.epoll.driver", "files.names")
WINDOWS = ("drivers.iocp.driver", "port.handles", "port.kernel", "files.windows")
#: Of those in ``pyproject.toml``: not for Windows.
POSIX = ("transports.pipe", "port.shared", "port.completion")
DIRECTIVES = {
    "language_level": 3,
    "cdivision": True,
    "initializedcheck": False,
    "freethreading_compatible": True,
    "embedsignature": True,
    "auto_pickle": False,
}


def modules_for(platform: str, portable: Iterable[str]) -> list[str]:
    """The compiled modules of a system (``sys.platform``), `portable` being those of ``pyproject.toml``."""
    if platform == "win32":
        left_out = {f"proactorx.{name}" for name in POSIX}
        return [name for name in portable if name not in left_out] + [f"proactorx.{name}" for name in WINDOWS]
    return [*portable, *(f"proactorx.{name}" for name in LINUX if platform.startswith("linux"))]


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
            else:
                extension.extra_compile_args = ["-O2", "-fvisibility=hidden", "-Wno-unused-function"]
        # An sdist holds the sources of all systems: those that are not built on this one are parts of one that is.
        built = {extension.name for extension in extensions}
        others = (f"proactorx.{name}" for name in (*LINUX, *WINDOWS, *POSIX))
        extensions[0].depends = parts + [f"{name.replace('.', '/')}.pyx" for name in others if name not in built]
        self.distribution.ext_modules = extensions
        super().finalize_options()
        if not self.parallel:
            self.parallel = 2

    def build_extensions(self) -> None:
        """Cython comes in here and no earlier: who only asks for the list of sources (an sdist) gets them untouched."""
        from Cython.Build import cythonize

        modules = cythonize(  # type: ignore[no-untyped-call, unused-ignore]
            self.extensions, compiler_directives=DIRECTIVES
        )
        made = {module.name: module for module in modules}
        for extension in self.extensions:
            extension.sources = made[extension.name].sources
        super().build_extensions()
