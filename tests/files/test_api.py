"""Each public name of aiofiles 25.1, and each method of its files,
is here too and takes the same arguments.
"""

from __future__ import annotations

import inspect
import io
from typing import Any

import aiofiles
import aiofiles.base
import aiofiles.os
import aiofiles.ospath
import aiofiles.tempfile
import aiofiles.tempfile.temptypes
import aiofiles.threadpool
import aiofiles.threadpool.binary
import aiofiles.threadpool.text
import pytest

import proactorx
from proactorx import files
from proactorx.files import binary, opening, ospath, text, unbuffered

MODULES = {
    "files": (files, aiofiles),
    "os": (files.os, aiofiles.os),
    "ospath": (ospath, aiofiles.ospath),
    "tempfile": (files.tempfile, aiofiles.tempfile),
    "threadpool": (opening, aiofiles.threadpool),
}
CLASSES = {
    "AsyncTextIOWrapper": (text, aiofiles.threadpool.text, io.TextIOWrapper),
    "AsyncTextIndirectIOWrapper": (text, aiofiles.threadpool.text, io.TextIOWrapper),
    "AsyncBufferedIOBase": (binary, aiofiles.threadpool.binary, io.BufferedWriter),
    "AsyncBufferedReader": (binary, aiofiles.threadpool.binary, io.BufferedReader),
    "AsyncFileIO": (unbuffered, aiofiles.threadpool.binary, io.FileIO),
    "AsyncIndirectBufferedIOBase": (binary, aiofiles.threadpool.binary, io.BufferedWriter),
    "AsyncIndirectBufferedReader": (binary, aiofiles.threadpool.binary, io.BufferedReader),
    "AsyncIndirectFileIO": (unbuffered, aiofiles.threadpool.binary, io.FileIO),
}


def _parameters(function: Any) -> list[tuple[str, object, object]]:
    return [(p.name, p.kind, p.default) for p in inspect.signature(function).parameters.values()]


@pytest.mark.parametrize("module", MODULES)
def test_public_names(module: str) -> None:
    ours, theirs = MODULES[module]
    assert set(theirs.__all__) <= set(dir(ours))


@pytest.mark.parametrize("module", ["os", "ospath"])
def test_functions_are_coroutine_functions_of_the_same_signature(module: str) -> None:
    ours, theirs = MODULES[module]
    for name in theirs.__all__:
        if name in ("path", "wrap"):
            continue
        mine, other = getattr(ours, name), getattr(theirs, name)
        assert inspect.iscoroutinefunction(mine) == inspect.iscoroutinefunction(other), name
        assert _signature(mine) == _signature(other), name


def _signature(function: Any) -> inspect.Signature | None:
    try:
        return inspect.signature(function)
    except ValueError:
        return None  # of some builtins some Pythons do not tell


def test_open_takes_what_aiofiles_open_takes() -> None:
    assert proactorx.open is files.open
    theirs = _parameters(aiofiles.open)
    assert _parameters(files.open)[: len(theirs)] == theirs


@pytest.mark.parametrize("name", aiofiles.tempfile.__all__)
def test_tempfile_takes_what_aiofiles_takes(name: str) -> None:
    assert _parameters(getattr(files.tempfile, name)) == _parameters(getattr(aiofiles.tempfile, name))


def _members(cls: type) -> dict[str, Any]:
    return {name: getattr(cls, name) for name in dir(cls) if not name.startswith("_")}


@pytest.mark.parametrize("name", CLASSES)
def test_methods_of_files(name: str) -> None:
    module, their_module, wrapped = CLASSES[name]
    ours, theirs = getattr(module, name), getattr(their_module, name)
    for member, value in _members(theirs).items():
        mine = getattr(ours, member)
        assert isinstance(value, property) == inspect.isdatadescriptor(mine), member
        if isinstance(value, property):
            continue
        # Theirs take anything and hand it to the method of the io class: ours take what that takes,
        # by position.
        signature = _signature(getattr(wrapped, member))
        if signature is not None:
            inspect.signature(mine).bind(*signature.parameters)
        assert inspect.iscoroutinefunction(value) == _is_coroutine_method(ours, member), member


def _is_coroutine_method(cls: type, member: str) -> bool:
    return (
        inspect.iscoroutinefunction(getattr(cls, member))
        or "Coroutine" in type(getattr(cls, member)).__name__
    )


@pytest.mark.parametrize(
    ("name", "module"),
    [("AsyncSpooledTemporaryFile", files.tempfile), ("AsyncTemporaryDirectory", files.tempfile)],
)
def test_methods_of_temporary_files(name: str, module: Any) -> None:
    theirs = getattr(aiofiles.tempfile.temptypes, name)
    assert set(_members(theirs)) <= set(_members(getattr(module, name)))
