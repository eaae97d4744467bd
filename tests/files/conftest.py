"""``aio``: the library under test, and the one whose API it has.

A test that takes ``aio`` runs with ``proactorx.files`` and with the real ``aiofiles``, so that it says what both do.
Tests of what aiofiles does not have import ``proactorx.files`` themselves.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
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


def _descriptors() -> set[str]:
    # Less the listing's own; with what each is, as numbers come again.
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue
        if target.startswith("/") and not target.startswith(("/proc", "/dev")):
            found.add(f"{name} {target}")
    return found


@pytest.fixture(autouse=True)
def _no_file_is_left_open() -> Iterator[None]:
    before = _descriptors()
    yield
    if _descriptors() - before:
        gc.collect()
    assert _descriptors() - before == set()


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
