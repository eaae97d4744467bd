"""What importing and installing the package promises, whatever the loop does later."""

from __future__ import annotations

import importlib.resources
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path
from typing import Any

import pytest
from loop.helpers import run_script

import proactorx
from proactorx.ops import constants
from proactorx.ops.op import table

BUILD_ONLY = {"proactorx._build"}  # needs the build's own tools; nothing imports it

IMPORT_ALL = """
import importlib, json, pkgutil, sys
import proactorx
from proactorx.ops import constants
names = [m.name for m in pkgutil.walk_packages(proactorx.__path__, "proactorx.")]
names = [n for n in names if n not in SKIPPED and not n.endswith("__main__")]
compiled = [n for n in names if importlib.import_module(n).__file__.endswith((".so", ".pyd"))]
print(json.dumps({"compiled": compiled, "gil": getattr(sys, "_is_gil_enabled", lambda: True)()}))
"""


def _child(code: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], stdout=subprocess.PIPE, timeout=30, check=True
    )
    return json.loads(done.stdout)


def _free_threaded() -> bool:
    return bool(sysconfig.get_config_var("Py_GIL_DISABLED"))


def test_every_module_imports_and_a_free_threaded_python_stays_so() -> None:
    """A compiled module that does not declare itself safe would switch the GIL on again, with a warning."""
    found = _child(f"SKIPPED = {BUILD_ONLY!r}\n{IMPORT_ALL}")
    assert "proactorx.loop.core" in found["compiled"]
    assert found["gil"] is not _free_threaded()


@pytest.mark.skipif(not _free_threaded(), reason="only a free-threaded Python can lose its freedom")
def test_a_running_loop_leaves_the_gil_off() -> None:
    code = (
        "import asyncio, proactorx, sys; proactorx.run(asyncio.sleep(0)); print(int(sys._is_gil_enabled()))"
    )
    assert _child(code) == 0


def test_import_is_light() -> None:
    """The loop has no run-time dependency, and a program that looks at no loop imports nothing that looks."""
    heavy = "rich", "setuptools", "Cython", "pytest", "uvloop", "json", "tempfile", "pathlib", "platform"
    looks = "stats", "stall", "watchdog", "trace", "tracks", "expose", "tasks", "page"
    names = *heavy, "proactorx.files", *(f"proactorx.observe.{name}" for name in looks)
    if sys.platform == "win32":
        names = tuple(name for name in names if name != "platform")  # tells what Windows this is
    code = (
        "import sys, asyncio\n"
        "before = set(sys.modules)\n"  # with what asyncio and an editable install need
        "import proactorx\n"
        "asyncio.Runner(loop_factory=proactorx.new_event_loop).run(asyncio.sleep(0))\n"
        f"found = [name for name in {names!r} if name in set(sys.modules) - before]\n"
        "import json; print(json.dumps(found))"
    )
    assert _child(code) == []


@pytest.mark.parametrize(
    ("call", "itself"),
    [
        ("loop.run_until_complete(loop.io_pool.call(loop, int))", []),
        ("loop.stats()", ["proactorx.observe.stats"]),
    ],
)
def test_what_a_loop_does_first_imports_nothing_else(call: str, itself: list[str]) -> None:
    """TLS and what it needs would hold the loop up for 8 ms."""
    code = (
        "import json, sys, proactorx\n"
        "loop = proactorx.new_event_loop()\n"
        "before = set(sys.modules)\n"
        f"{call}\n"
        "print(json.dumps(sorted(set(sys.modules) - before)))"
    )
    assert _child(code) == itself


def test_one_version() -> None:
    with (Path(__file__).parents[1] / "pyproject.toml").open("rb") as file:
        assert proactorx.__version__ == tomllib.load(file)["project"]["version"]


def test_the_package_says_that_it_is_typed() -> None:
    assert importlib.resources.files(proactorx).joinpath("py.typed").is_file()


def test_the_kinds_of_op_have_one_numbering() -> None:
    """The compiled code has an enum of them, the rest of the package and the tests the same as numbers."""
    package = Path(proactorx.__file__).parent
    if not (package / "ops" / "kinds.h").exists():
        pytest.skip("needs the sources of the package")
    kinds = re.findall(r"^    PX_KIND_([A-Z_]+), ", (package / "ops" / "kinds.h").read_text(), re.MULTILINE)
    assert {name: getattr(constants, name) for name in kinds} == {
        name: number for number, name in enumerate(kinds)
    }
    assert len(kinds) == len(table())


def test_subinterpreters_are_refused_and_harm_nobody() -> None:
    pytest.importorskip("_interpreters", reason="before Python 3.13 they have another name")
    script = """
    import _interpreters, asyncio, proactorx

    async def main():
        await asyncio.sleep(0.001)
        return "works"

    proactorx.run(main())
    for kind in ("isolated", "legacy"):
        other = _interpreters.create(kind)
        failure = _interpreters.run_string(other, "import proactorx")
        print(kind, failure.type.__name__)
        _interpreters.destroy(other)
    print(proactorx.run(main()))
    """
    assert run_script(None, script).split() == ["isolated", "ImportError", "legacy", "ImportError", "works"]


BUILD_NOTHING = """
import sys
from pathlib import Path
from setuptools import Distribution, Extension
from setuptools.command.build_ext import build_ext
from setuptools.errors import LinkError
from proactorx._build import BuildExt

class WithoutCython(BuildExt):
    finalize_options = build_ext.finalize_options
    build_extensions = build_ext.build_extensions

Path("nothing.c").write_text("")
command = WithoutCython(Distribution({"ext_modules": [Extension("some.nothing", ["nothing.c"])]}))
command.build_lib = command.build_temp = "built"
command.ensure_finalized()
try:
    command.run()
except LinkError as exc:
    assert "PyInit_nothing" in str(exc), exc
    assert not [path for path in Path("built").rglob("nothing*.so")]
    print("refused")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs a C compiler")
@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_a_module_with_nothing_in_it_ends_the_build(tmp_path: Path) -> None:
    """The linker may take an empty object file for an empty script; the import would fail, later."""
    pytest.importorskip("setuptools")
    package = str(Path(proactorx.__file__).parent.parent)
    done = subprocess.run(
        [sys.executable, "-c", BUILD_NOTHING],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": package},
        capture_output=True,
        timeout=60,
    )
    assert done.stdout.decode().endswith("refused\n"), done.stderr.decode()


BUILD_TWICE = """
import sys
from setuptools import Distribution, Extension
from proactorx._build import BuildExt

distribution = Distribution({"ext_modules": [Extension("proactorx.ops.op", ["proactorx/ops/op.pyx"])]})
for _ in range(3):
    BuildExt(distribution).ensure_finalized()
    print(*sorted(extension.name for extension in distribution.ext_modules))
"""


def test_no_module_is_built_twice_at_once() -> None:
    """``pip install -e`` makes the command twice for one distribution: two compilers wrote one object."""
    pytest.importorskip("setuptools")
    package = str(Path(proactorx.__file__).parent.parent)
    done = subprocess.run(
        [sys.executable, "-c", BUILD_TWICE],
        env={**os.environ, "PYTHONPATH": package},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    first, *others = done.stdout.splitlines()
    names = first.split()
    assert len(names) == len(set(names)) > 1
    assert others == [first, first]
