"""Limits that keep the sources readable, checked so that nobody has to argue about them."""

from __future__ import annotations

import ast
import asyncio
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "proactorx"

FILE_LINES = 600
LINE_LENGTH = 110
FUNCTION_LINES = 70
#: Tables of the kernel's ABI, written by programs.
GENERATED: set[str] = set()
BANNED = re.compile(r"\b(TODO|FIXME|XXX|HACK|WIP)\b|print\(.*debug", re.IGNORECASE)
#: Where NotImplementedError is right: bases whose subclasses do the work, and what asyncio itself answers so.
MAY_BE_UNIMPLEMENTED = {
    "drivers/driver.pyx",
    "drivers/readiness/driver.pyx",
    "port/binding_windows.pyx",  # what this Windows cannot do
    "port/completion_port_windows.pyx",  # says so of it
    "ops/op.pyx",
    "port/operations.pyx",
    "transports/base.pyx",
    "transports/registry.pyx",
    "transports/reader.pyx",
    "transports/streams.py",  # one of the names that asyncio's own methods use
    "transports/datagram.pyx",
    "transports/pipe.pyx",  # the writing side, which does not read
    "transports/tls_transport.pyx",
    "loop/connections.py",  # Unix sockets, where Python has none
    "loop/timers.pyx",
    "loop/processes.py",  # asks a driver for an op that it may not have
    "loop/winpipes.py",  # pipes on a driver that has none
    "transports/winpipe.py",
}
DRIVER_FILES = {"__init__", "driver", "encode", "features", "probe"}

pytestmark = pytest.mark.skipif(not (PACKAGE / "ops" / "op.pyx").exists(), reason="the sources are not here")


def _files(*suffixes: str, under: Path = PACKAGE) -> list[Path]:
    """The files that people write; compiled and generated ones have other suffixes."""
    return [
        path
        for path in sorted(under.rglob("*"))
        if path.suffix in suffixes and "__pycache__" not in path.parts
    ]


WRITTEN = (".py", ".pyx", ".pxd", ".pyi", ".h")
#: Programs beside the package, of which files and lines are no longer either.
BESIDE = (ROOT / "tests", ROOT / "examples")


def _name(path: Path) -> str:
    return (
        path.relative_to(PACKAGE).as_posix() if PACKAGE in path.parents else path.relative_to(ROOT).as_posix()
    )


def test_no_file_is_too_long() -> None:
    files = _files(*WRITTEN) + [path for folder in BESIDE for path in _files(".py", under=folder)]
    lengths = {_name(path): len(path.read_text().splitlines()) for path in files}
    assert {name: size for name, size in lengths.items() if size > FILE_LINES and name not in GENERATED} == {}


def _too_long(files: list[Path]) -> list[str]:
    return [
        f"{_name(path)}:{number}"
        for path in files
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if len(line) > LINE_LENGTH and _name(path) not in GENERATED
    ]


def test_no_line_is_too_long() -> None:
    files = _files(*WRITTEN) + [path for folder in BESIDE for path in _files(".py", under=folder)]
    assert _too_long(files) == []


DEFINITION = re.compile(
    r"^( *)(?:async +)?(?:def|cdef|cpdef)\b(?! class)[^=]*\(.*(?:[:,(]|\bgil:|\bnogil:)\s*$"
)


def _functions(path: Path) -> Iterator[tuple[str, int]]:
    """(first line, length) of each function, by indentation, which Cython's are read by too."""
    lines = path.read_text().splitlines()
    for start, line in enumerate(lines):
        found = DEFINITION.match(line)
        if found is None:
            continue
        indent, last = len(found[1]), start
        for number in range(start + 1, len(lines)):
            text = lines[number]
            if (
                text.strip()
                and len(text) - len(text.lstrip()) <= indent
                and not text.lstrip().startswith(")")
            ):
                break
            if text.strip():
                last = number
        yield line.strip(), last - start + 1


def test_no_function_is_too_long() -> None:
    found = {(_name(path), line): size for path in _files(".py", ".pyx") for line, size in _functions(path)}
    assert len(found) > 300  # else the pattern is wrong
    assert {where: size for where, size in found.items() if size > FUNCTION_LINES} == {}


def test_nothing_is_left_for_later() -> None:
    assert [
        f"{_name(path)}:{number}: {line.strip()}"
        for path in _files(*WRITTEN)
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if BANNED.search(line)
    ] == []


def test_what_is_not_implemented_is_meant_so() -> None:
    found = {
        _name(path) for path in _files(".py", ".pyx", ".pxd") if "NotImplementedError" in path.read_text()
    }
    assert found <= MAY_BE_UNIMPLEMENTED


def test_each_driver_has_the_same_files() -> None:
    folders = [path for path in (PACKAGE / "drivers").iterdir() if (path / "__init__.py").exists()]
    assert {folder.name for folder in folders} >= {"io_uring", "epoll", "select", "readiness"}
    for folder in folders:
        if folder.name == "readiness":
            continue  # what several of them share
        stems = {path.name.split(".")[0] for path in _files(".py", ".pyx", ".pxd", ".pyi", under=folder)}
        assert stems <= DRIVER_FILES
        assert {"__init__", "driver"} <= stems


def _is_protocol(scope: ast.ClassDef) -> bool:
    """A ``typing.Protocol`` names what others document."""
    return any(isinstance(base, ast.Name) and base.id == "Protocol" for base in scope.bases)


def _undocumented(path: Path) -> Iterator[str]:
    """The public functions and classes of a Python file that say nothing of themselves."""
    tree = ast.parse(path.read_text())
    for scope in [tree, *(node for node in ast.walk(tree) if isinstance(node, ast.ClassDef))]:
        if isinstance(scope, ast.ClassDef) and (scope.name.startswith("_") or _is_protocol(scope)):
            continue
        for node in scope.body:
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                continue
            if "overload" in map(ast.unparse, node.decorator_list):
                continue  # the function itself says it
            if not node.name.startswith("_") and not ast.get_docstring(node):
                yield node.name


#: Documented where they are declared: what a protocol or a build step is told.
OVERRIDES = {
    name for name in dir(asyncio.BufferedProtocol) + dir(asyncio.Protocol) if not name.startswith("_")
}
OVERRIDES |= {"finalize_options"}


def _needs_words(path: Path, name: str) -> bool:
    return name not in OVERRIDES


PUBLIC_DEF = re.compile(r"^(?: {4})?(?:async )?def ([a-z]\w*)\(", re.MULTILINE)


def _undocumented_in_cython(path: Path) -> Iterator[str]:
    text = path.read_text()
    for found in PUBLIC_DEF.finditer(text):
        rest = text[text.index(":\n", found.end()) + 2 :].lstrip()
        decorated = text[: found.start()].rstrip().rsplit("\n", 1)[-1].strip()
        if not rest.startswith(('"""', 'r"""')) and not decorated.endswith(".setter"):
            yield found[1]


def test_every_public_function_is_documented() -> None:
    missing = [
        f"{_name(path)}: {name}"
        for path in _files(".py")
        for name in _undocumented(path)
        if _needs_words(path, name)
    ]
    missing += [
        f"{_name(path)}: {name}"
        for path in _files(".pyx")
        for name in _undocumented_in_cython(path)
        if _needs_words(path, name)
    ]
    assert missing == []


def test_every_file_says_what_it_is_for() -> None:
    assert [
        _name(path)
        for path in _files(".py", ".pyx")
        if path.read_text().strip() and not path.read_text().lstrip().startswith(('"""', "#"))
    ] == []
