"""Which room of the package may use which: loop -> transports -> port -> drivers -> ops -> sys."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "proactorx"
SUFFIXES = (".py", ".pyx", ".pxd", ".pyi")

#: Each room, and the rooms that it may use besides itself; "" is the package,
#: for its version and public names.
ROOMS: dict[str, set[str]] = {
    "sys": set(),
    "ops": {"sys"},
    "drivers": {"ops", "sys"},
    "port": {"drivers", "ops", "sys"},
    "pool": {"port", "drivers", "ops", "sys"},
    "transports": {"port", "drivers", "ops", "sys"},
    "files": {"pool", "port", "drivers", "ops", "sys"},
    "observe": {"transports", "pool", "port", "drivers", "ops", "sys"},
    "loop": {"", "observe", "transports", "files", "pool", "port", "drivers", "ops", "sys"},
    "cli": {"", "loop", "observe", "transports", "files", "pool", "port", "drivers", "ops", "sys"},
    "": {"cli", "loop", "observe", "transports", "files", "pool", "port", "drivers", "ops", "sys"},
}

USES = re.compile(
    r"""^\s*(?:from\s+(proactorx[\w.]*)\s+c?import\s+\(?\s*([\w, ]*) | c?import\s+(proactorx[\w.]*))""",
    re.MULTILINE | re.VERBOSE,
)
NAMED = re.compile(r"""["'](proactorx\.[\w.{}]+)["']""")  # import_module("proactorx...")

pytestmark = pytest.mark.skipif(not (PACKAGE / "ops" / "op.pyx").exists(), reason="the sources are not here")


def _sources() -> Iterator[Path]:
    return (path for path in sorted(PACKAGE.rglob("*")) if path.suffix in SUFFIXES)


def _room(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in ROOMS else ""


def _is_module(path: Path) -> bool:
    return path.is_dir() or any(path.with_suffix(suffix).exists() for suffix in SUFFIXES)


def _used(path: Path) -> Iterator[str]:
    text = path.read_text()
    for module, names, imported in USES.findall(text):
        if imported:
            yield imported
            continue
        for name in re.findall(r"\w+", re.sub(r"\bas \w+", "", names)) or [""]:
            yield (
                f"{module}.{name}" if _is_module(PACKAGE.parent / module.replace(".", "/") / name) else module
            )
    yield from NAMED.findall(text)


def _module(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


def test_the_rooms_are_known() -> None:
    found = {path.name for path in PACKAGE.iterdir() if path.is_dir() and any(path.glob("*.py*"))} - {
        "__pycache__"
    }
    assert found <= set(ROOMS)


def test_imports_follow_the_direction() -> None:
    wrong = []
    for path in _sources():
        room = _room(_module(path))
        for used in _used(path):
            other = _room(used)
            if other != room and other not in ROOMS[room]:
                wrong.append(f"{_module(path)} uses {used}")
    assert wrong == []


INCLUDES = re.compile(
    r"""^\s*(?:\#\s*include\s*|cdef\s+extern\s+from\s+)["'<]{1,2}([\w./*]+)[">']""", re.MULTILINE
)
BOUND_BY_CYTHON = re.compile(r"^\s*(?:from|cimport)\s+(posix[\w.]*|libc\.errno)", re.MULTILINE)
#: What any C compiler has, and Python.
PORTABLE = {"stddef.h", "stdint.h", "stdlib.h", "string.h", "Python.h", "pythread.h"}
CALLS_OF_ATOMICS = re.compile(r"\b(?:__atomic_\w+|__sync_\w+|_?Interlocked\w+)\b")


def _written(*suffixes: str) -> Iterator[Path]:
    return (path for path in sorted(PACKAGE.rglob("*")) if path.suffix in suffixes)


def test_headers_follow_the_direction() -> None:
    """A module includes headers of its own room and of sys/, which alone includes those of the system."""
    wrong = []
    for path in _written(".h", ".pyx", ".pxd"):
        room, text = path.relative_to(PACKAGE).parts[0], path.read_text()
        for header in INCLUDES.findall(text):
            near = (path.parent / header).exists()
            if room == "sys":
                allowed = (
                    near or "/" not in header or not (PACKAGE.parent / header).exists() or "/sys/" in header
                )
            else:
                allowed = (
                    near or header in PORTABLE or header.startswith((f"proactorx/{room}/", "proactorx/sys/"))
                )
            if not allowed:
                wrong.append(f"{path.relative_to(PACKAGE)} includes {header}")
        wrong += [
            f"{path.relative_to(PACKAGE)} uses {used}"
            for used in BOUND_BY_CYTHON.findall(text)
            if room != "sys"
        ]
    assert wrong == []


def test_the_rule_of_headers_is_applied_to_something() -> None:
    found = {path.name: set(INCLUDES.findall(path.read_text())) for path in _written(".h", ".pyx", ".pxd")}
    assert "proactorx/sys/socket.h" in found["socket.pxd"]
    assert {"sys/socket.h", "socket_windows.h"} <= found["socket.h"]
    assert "proactorx/sys/park.h" in found["scheduler_posix.h"]


def test_headers_of_the_system_are_declared_once() -> None:
    """... each in the ``.pxd`` beside it; what is only a part of another header needs none."""
    folder = PACKAGE / "sys"
    parts = {"ring_abi", "socket_windows"}
    assert {path.stem for path in folder.glob("*.h")} - {path.stem for path in folder.glob("*.pxd")} == parts
    declared = Counter(
        header
        for path in _written(".pyx", ".pxd")
        for header in INCLUDES.findall(path.read_text())
        if "/sys/" in header
    )
    assert {header for header, count in declared.items() if count > 1} == set()


def test_there_is_one_vocabulary_of_atomics() -> None:
    raw = {
        path.relative_to(PACKAGE).as_posix()
        for path in _written(".h", ".pyx", ".pxd")
        if CALLS_OF_ATOMICS.search(path.read_text())
    }
    assert raw == {"sys/atomic.h"}


def test_there_is_one_monotonic_clock() -> None:
    clocks = re.compile(r"clock_gettime\(CLOCK_MONOTONIC,|QueryPerformanceCounter|GetTickCount64\(")
    found = {
        path.relative_to(PACKAGE).as_posix()
        for path in _written(".h", ".pyx", ".pxd")
        if clocks.search(path.read_text())
    }
    assert found == {"sys/clock.h"}


def test_the_rule_is_applied_to_something() -> None:
    """A pattern that finds nothing would find no fault either."""
    used = {
        path.name: set(_used(path))
        for path in _sources()
        if "io_uring" in path.parts or path.name == "loop_port.pyx"
    }
    assert "proactorx.ops.op" in used["driver.pyx"]
    assert "proactorx.drivers.driver" in used["loop_port.pyx"]


def test_a_driver_knows_no_other_driver() -> None:
    folders = [
        path
        for path in (PACKAGE / "drivers").iterdir()
        if path.is_dir() and path.name not in ("__pycache__", "readiness")
    ]
    wrong = [
        f"{_module(path)} uses {used}"
        for folder in folders
        for path in _sources()
        if folder in path.parents
        for used in _used(path)
        for other in folders
        if other != folder and used.startswith(f"proactorx.drivers.{other.name}.")
    ]
    assert wrong == []


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("proactorx.drivers", ("loop", "transports", "port")),
        (
            "proactorx.drivers.select.driver",
            ("loop", "transports", "port", "drivers.io_uring", "drivers.epoll"),
        ),
        (
            "proactorx.port.loop_port",
            ("loop", "transports", "drivers.io_uring", "drivers.epoll", "drivers.select"),
        ),
        ("proactorx.transports.stream", ("loop", "drivers.io_uring", "drivers.epoll", "drivers.select")),
    ],
)
def test_what_an_import_brings(module: str, absent: tuple[str, ...]) -> None:
    """The same rule, as the interpreter sees it."""
    # The package itself offers the loop: it is replaced by an empty one.
    code = f"""
import json, sys, types
package = types.ModuleType("proactorx")
package.__path__ = {[str(PACKAGE)]!r}
sys.modules["proactorx"] = package
__import__({module!r})
print(json.dumps([name for name in sys.modules if name.startswith("proactorx.")]))
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], stdout=subprocess.PIPE, timeout=30, check=True
    )
    loaded = json.loads(done.stdout)
    assert module in loaded
    for name in absent:
        assert [each for each in loaded if f"{each}.".startswith(f"proactorx.{name}.")] == []


def _uses() -> dict[str, set[str]]:
    """Of each module, those that it uses; a package stands for its own ``__init__``."""
    sources: dict[str, list[Path]] = {}
    for path in _sources():
        sources.setdefault(_module(path), []).append(path)
    return {
        module: {used for path in paths for used in _used(path) if used in sources and used != module}
        for module, paths in sources.items()
    }


def _cycles(uses: dict[str, set[str]]) -> Iterator[list[str]]:
    """The way from a module back to itself, of each that has one."""
    for start in uses:
        ways, seen = [[start]], {start}
        while ways:
            way = ways.pop(0)
            for used in sorted(uses[way[-1]]):
                if used == start:
                    yield [*way, start]
                    ways = []
                    break
                if used not in seen:
                    seen.add(used)
                    ways.append([*way, used])


def test_no_module_uses_itself_by_way_of_others() -> None:
    """Imports inside of functions count too."""
    assert [" -> ".join(way) for way in _cycles(_uses())] == []


def test_a_cycle_is_found() -> None:
    assert list(_cycles({"a": {"b"}, "b": {"c"}, "c": {"b"}})) == [["b", "c", "b"], ["c", "b", "c"]]
