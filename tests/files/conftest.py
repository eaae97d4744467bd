"""``aio``: the library under test, and the one whose API it has.

A test that takes ``aio`` runs with ``proactorx.files`` and with the real ``aiofiles``, so that it says what
both do. Tests of what aiofiles does not have import ``proactorx.files`` themselves.
"""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from collections.abc import Iterator
from ctypes import byref, c_ulong, c_void_p, create_unicode_buffer
from pathlib import Path
from types import ModuleType
from typing import Any

import aiofiles
import aiofiles.os
import aiofiles.tempfile
import pytest

from proactorx import files

LIBRARIES: dict[str, ModuleType] = {"files": files, "aiofiles": aiofiles}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "aio" in metafunc.fixturenames:
        metafunc.parametrize("aio", list(LIBRARIES.values()), ids=list(LIBRARIES))


def open_files() -> set[str]:
    """The files that this process has open: numbers, with what each is, as numbers come again."""
    if sys.platform == "win32":
        return _open_handles()
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue
        if target.startswith("/") and not target.startswith(("/proc", "/dev")):
            found.add(f"{name} {target}")
    return found


def _open_handles() -> set[str]:
    kernel = ctypes.windll.kernel32  # type: ignore[attr-defined, unused-ignore]
    count, flags = c_ulong(), c_ulong()
    kernel.GetProcessHandleCount(c_void_p(-1), byref(count))
    name, found, number = create_unicode_buffer(1000), set(), 0
    for handle in range(4, 1 << 20, 4):
        if number >= count.value:
            break
        if not kernel.GetHandleInformation(c_void_p(handle), byref(flags)):
            continue
        number += 1
        is_file = kernel.GetFileType(c_void_p(handle)) == 1  # FILE_TYPE_DISK
        if is_file and kernel.GetFinalPathNameByHandleW(c_void_p(handle), name, len(name), 0):
            found.add(f"{handle} {name.value}")
    return found


@pytest.fixture(autouse=True)
def _no_file_is_left_open() -> Iterator[None]:
    before = open_files()
    yield
    if open_files() - before:
        gc.collect()
    assert open_files() - before == set()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file of 256 bytes, 0 to 255."""
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)))
    return path


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    """A text of a thousand lines, of 0 to 999 characters."""
    path = tmp_path / "lines"
    path.write_text("".join("é" * i + "\n" for i in range(1000)), encoding="utf-8")
    return path


async def outcome(awaitable: Any) -> Any:
    """What an operation brings: its result, or the type and text of what it raises."""
    try:
        return await awaitable
    except Exception as exc:
        return type(exc), str(exc)
