"""The documentation: every file that a page names exists, and so do the functions on a byte's way."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "proactorx"
PAGE = ROOT / "docs" / "pages" / "design" / "how-a-byte-travels.md"
DRIVERS = ("io_uring", "epoll", "select", "iocp")

pytestmark = pytest.mark.skipif(
    not (PAGE.exists() and (PACKAGE / "ops" / "op.pyx").exists()), reason="the sources are not here"
)

#: A file, and the functions that are called there.
HOP = re.compile(r"^ +(\S+/\S+\.\w+) +((?:\w+, )*\w+)", re.MULTILINE)


def _hops(section: str) -> list[tuple[str, list[str]]]:
    text = PAGE.read_text().partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    return [(file, functions.split(", ")) for file, functions in HOP.findall(text)]


def _defined(file: str) -> set[str]:
    text = (PACKAGE / file).read_text()
    if file.endswith(".h"):
        return set(re.findall(r"\b(px_\w+)\([^;]*\)\s*\{", text))
    return set(re.findall(r"^ *(?:async )?(?:def|cdef|cpdef) [^=(\n]*?\b(\w+)\(", text, re.MULTILINE))


@pytest.mark.parametrize("section", [*DRIVERS, "Where it ends"])
def test_every_hop_exists(section: str) -> None:
    hops = _hops(section)
    assert len(hops) >= (5 if section == "Where it ends" else 12)
    for file, functions in hops:
        assert (PACKAGE / file).exists(), file
        assert [name for name in functions if name not in _defined(file)] == [], file


def test_every_line_is_a_hop_or_a_heading() -> None:
    """A line that the pattern does not see would not be checked."""
    page = PAGE.read_text()
    for block in re.findall(r"```text\n(.*?)```", page, re.DOTALL):
        for line in block.splitlines():
            assert not line.startswith(" ") or HOP.match(line), line


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "tests").glob("*.md"))]
NAMED = re.compile(
    r"`((?:proactorx|tests|drivers|ops|port|pool|transports|files|loop|cli|sys)/[\w/.-]+\.\w+)`"
)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_files_that_a_page_names_exist(page: Path) -> None:
    named = NAMED.findall(page.read_text())
    assert [name for name in named if not (ROOT / name).exists() and not (PACKAGE / name).exists()] == []
