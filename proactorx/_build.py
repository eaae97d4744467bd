"""How the compiled modules are built: setuptools' ``build_ext`` with Cython, one extension module for each ``.pyx``.

Loaded by path at build time (see ``pyproject.toml``); nothing here is imported by the installed package.
The modules in ``pyproject.toml`` are portable; a driver's module is added here on the systems where it can run.
"""

from __future__ import annotations

import sys
from pathlib import Path

from setuptools import Extension  # type: ignore[import-untyped, unused-ignore]
from setuptools.command.build_ext import build_ext  # type: ignore[import-untyped, unused-ignore]

LINUX = ("io_uring.driver", "io_uring.trial", "epoll.driver")
DIRECTIVES = {
    "language_level": 3,
    "cdivision": True,
    "initializedcheck": False,
    "freethreading_compatible": True,
    "embedsignature": True,
    "auto_pickle": False,
}


class BuildExt(build_ext):  # type: ignore[misc, unused-ignore]
    """Adds the drivers of this system and passes everything through Cython."""

    parallel: int | bool | None

    def finalize_options(self) -> None:
        extensions = {extension.name: extension for extension in self.distribution.ext_modules or []}
        if sys.platform.startswith("linux"):
            for name in LINUX:
                module = f"proactorx.drivers.{name}"
                extensions[module] = Extension(module, [f"{module.replace('.', '/')}.pyx"])
        # What a module is made of besides its source: a change to it builds again, and the sdist holds it.
        parts = sorted(str(path) for kind in ("pxd", "h") for path in Path("proactorx").rglob(f"*.{kind}"))
        for extension in extensions.values():
            extension.depends = parts
            extension.extra_compile_args = ["-O2", "-fvisibility=hidden", "-Wno-unused-function"]
        self.distribution.ext_modules = list(extensions.values())
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
