"""The table of exclusions: read from ``exclusions.toml``,
and written to the docs by ``python exclusions.py``.
"""

from __future__ import annotations

import functools
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

DATA = Path(__file__).with_name("exclusions.toml")
PAGE = Path(__file__).parents[2] / "docs" / "pages" / "conformance.md"
MARK = "<!-- the table below is written by tests/conformance/exclusions.py -->\n"


@dataclass(frozen=True)
class Group:
    """Tests that are excluded for one reason."""

    reason: str
    tests: tuple[str, ...]
    asyncio: str
    uvloop: str
    loops: tuple[str, ...] = ()
    pythons: tuple[str, ...] = ()
    newer: bool = False

    def holds(self, loop: str) -> bool:
        """Whether this is said of `loop` on the running Python."""
        version = f"{sys.version_info[0]}.{sys.version_info[1]}"
        return (not self.loops or loop in self.loops) and (not self.pythons or version in self.pythons)

    @property
    def where(self) -> str:
        return ", ".join((*self.loops, *(f"Python {version}" for version in self.pythons))) or "everywhere"


@functools.cache
def read() -> list[Group]:
    groups = tomllib.loads(DATA.read_text())["group"]
    return [
        Group(**{key: tuple(value) if isinstance(value, list) else value for key, value in g.items()})
        for g in groups
    ]


def table() -> str:
    """As Markdown."""
    lines = ["| test | reason | where | stock asyncio | uvloop |", "|---|---|---|---|---|"]
    for group in read():
        for name in group.tests:
            lines.append(f"| `{name}` | {group.reason} | {group.where} | {group.asyncio} | {group.uvloop} |")
    return "\n".join(lines) + "\n"


def page(old: str) -> str:
    """The page with the table as it must be now."""
    return old.partition(MARK)[0] + MARK + "\n" + table()


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text()))
