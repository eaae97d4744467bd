"""``write_bytes(atomic=True)``: at no moment can anybody read the new file who may not read the old one."""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from proactorx import files
from proactorx.files import writing

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="permissions come from the directory there")

needs_root = pytest.mark.skipif(
    sys.platform == "win32" or os.geteuid() != 0, reason="only root has a second user"
)
OTHER, GROUP = 54_321, 54_322


def in_other_user(body: Callable[[], int]) -> int:
    """Start a process that is another user's, without groups but its own,
    and ends with what `body` returns.
    """
    with warnings.catch_warnings():
        # threads of other tests: they are not needed there
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(GROUP)
            os.setuid(OTHER)
            os._exit(body())
        finally:
            os._exit(77)
    return child


def spied(folder: Path) -> int:
    """Read whatever can be read in the folder until that is gone: 0, or 1 where something was secret."""
    while True:
        try:
            names = os.listdir(folder)
        except FileNotFoundError:
            return 0
        for name in names:
            with contextlib.suppress(OSError), open(folder / name, "rb") as file:
                while data := file.read():
                    if b"secret" in data:
                        return 1


@pytest.fixture
def folder() -> Iterator[Path]:
    """One that every user can look into."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield Path(name)


@pytest.fixture
def modes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The permissions that each file had when it was made, and when its first byte was written."""
    seen: list[int] = []
    made, write = os.open, writing.write_all

    def opened(path: Any, flags: int, mode: int = 0o777) -> int:
        fd = made(path, flags, mode)
        if flags & os.O_CREAT:
            seen.append(stat.S_IMODE(os.fstat(fd).st_mode))
        return fd

    def written(fd: int, data: Any) -> None:
        seen.append(stat.S_IMODE(os.fstat(fd).st_mode))
        write(fd, data)

    monkeypatch.setattr(os, "open", opened)
    monkeypatch.setattr(writing, "write_all", written)
    return seen


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o640, 0o664, 0o000])
async def test_the_mode_is_there_before_the_first_byte(folder: Path, modes: list[int], mode: int) -> None:
    path = folder / "f"
    path.write_bytes(b"old")
    path.chmod(mode)
    modes.clear()
    await files.write_bytes(path, b"secret", atomic=True)
    assert modes == [0o600, mode]
    assert stat.S_IMODE(path.stat().st_mode) == mode


async def test_a_new_file_has_what_every_new_file_has(folder: Path) -> None:
    await files.write_bytes(folder / "a", b"x", atomic=True)
    (folder / "b").write_bytes(b"x")
    assert (folder / "a").stat().st_mode == (folder / "b").stat().st_mode


@needs_root
async def test_owner_and_group_are_kept(folder: Path) -> None:
    path = folder / "f"
    path.write_bytes(b"old")
    os.chown(path, OTHER, GROUP)
    path.chmod(0o640)
    await files.write_bytes(path, b"secret", atomic=True)
    found = path.stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (OTHER, GROUP, 0o640)


@needs_root
@pytest.mark.parametrize(
    ("before", "after"), [(0o640, 0o600), (0o664, 0o644), (0o666, 0o666), (0o2775, 0o755), (0o4755, 0o755)]
)
def test_a_group_that_cannot_be_kept_may_do_what_everybody_may(folder: Path, before: int, after: int) -> None:
    """Else the writer's own group could read what was kept from it;
    and a program of root's would be the writer's.
    """
    path = folder / "f"
    path.write_bytes(b"old")
    path.chmod(before)
    folder.chmod(0o777)
    child = in_other_user(lambda: int(writing._write_file(os.fsencode(path), b"secret", True, False) != 6))
    assert os.waitpid(child, 0)[1] == 0
    found = path.stat()
    assert (found.st_uid, found.st_gid, oct(stat.S_IMODE(found.st_mode))) == (OTHER, GROUP, oct(after))
    assert path.read_bytes() == b"secret"


@needs_root
async def test_another_user_reads_none_of_300_secrets(folder: Path) -> None:
    path = folder / "f"
    path.write_bytes(b"nothing yet")
    path.chmod(0o600)
    spy = in_other_user(lambda: spied(folder))
    try:
        for _ in range(300):
            await files.write_bytes(path, b"secret" * 50_000, atomic=True)
    finally:
        path.unlink()
        folder.rmdir()
        assert await asyncio.to_thread(os.waitpid, spy, 0) == (spy, 0)
        folder.mkdir()
