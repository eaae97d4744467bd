"""How the compiled modules are built: setuptools' ``build_ext`` with Cython, one extension module for each ``.pyx``.

Loaded by path at build time (see ``pyproject.toml``); nothing here is imported by the installed package.
The modules in ``pyproject.toml`` are portable; a driver's module is added here on the systems where it can run.
"""

from __future__ import annotations

import sys

from setuptools import Extension
from setuptools.command.build_ext import build_ext

LINUX = ("io_uring", "epoll")


class BuildExt(build_ext):
    """Adds the drivers of this system and passes everything through Cython."""

    def finalize_options(self) -> None:
        from Cython.Build import cythonize

        extensions = list(self.distribution.ext_modules or [])
        if sys.platform.startswith("linux"):
            extensions += [
                Extension(f"proactorx.drivers.{name}.driver", [f"proactorx/drivers/{name}/driver.pyx"]) for name in LINUX
            ]
        for extension in extensions:
            extension.extra_compile_args += ["-O2", "-fvisibility=hidden", "-Wno-unused-function"]
        self.distribution.ext_modules = cythonize(
            extensions,
            nthreads=0,
            compiler_directives={
                "language_level": 3,
                "cdivision": True,
                "initializedcheck": False,
                "freethreading_compatible": True,
                "embedsignature": True,
                "auto_pickle": False,
            },
        )
        super().finalize_options()
        if not self.parallel:
            self.parallel = 2
