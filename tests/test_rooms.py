"""Each room of the package has a README that names its files and the rooms that it may use."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from test_layers import PACKAGE, ROOMS

SOURCES = {".py", ".pyx", ".pxd", ".h"}
FOLDERS = [room for room in ROOMS if room and (PACKAGE / room).is_dir()]

pytestmark = pytest.mark.skipif(not (PACKAGE / "ops" / "op.pyx").exists(), reason="the sources are not here")


def _readme(room: str) -> str:
    return (PACKAGE / room / "README.md").read_text()


def _stems(folder: Path) -> set[str]:
    return {path.stem for path in folder.iterdir() if path.suffix in SOURCES} - {"__init__"}


@pytest.mark.parametrize("room", FOLDERS)
def test_it_names_every_file(room: str) -> None:
    named = {name.removesuffix(".h").rstrip("/") for name in re.findall(r"`([\w./]+)`", _readme(room))}
    folders = {path.name for path in (PACKAGE / room).iterdir() if (path / "__init__.py").exists()}
    assert _stems(PACKAGE / room) | folders <= named


@pytest.mark.parametrize("room", FOLDERS)
def test_files_with_a_suffix_exist(room: str) -> None:
    files = re.findall(r"`([\w/]+\.(?:h|pyx|py))`", _readme(room))
    assert [name for name in files if not (PACKAGE / room / name).exists()] == []


@pytest.mark.parametrize("room", FOLDERS)
def test_it_is_short(room: str) -> None:
    lines = _readme(room).splitlines()
    assert 8 <= len(lines) <= 25
    assert [line for line in lines if len(line) > 130] == []


@pytest.mark.parametrize("room", FOLDERS)
def test_it_says_which_rooms_it_may_use(room: str) -> None:
    found = re.search(r"[Ii]t may use (.*?)\.(?:\s|$)", _readme(room), re.DOTALL)
    assert found is not None
    if not re.search(r"every\s+room|all of them", found[1]):
        assert set(re.findall(r"`(\w+)`", found[1])) == ROOMS[room]
