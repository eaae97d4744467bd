"""What the tables of this folder share: the loops, the page between its marks, the versions.

Import this before the package: it is then the one beside the tests, in the scripts too.
"""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE), str(HERE.parent), str(ROOT)]

from support.loops import maker as maker  # noqa: E402

LOOPS = ("asyncio", "uvloop", "proactorx")
START, END = "<!-- table -->", "<!-- end of table -->"


def installed(package: str) -> str:
    """The version of a package, or "" if there is none."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def made_on() -> dict[str, Any]:
    """The versions that the answers are of."""
    kernel = platform.release().split("-")[0]
    return {"python": platform.python_version(), "kernel": kernel, "uvloop": installed("uvloop")}


def row_of(package: str, run: Callable[[str, str], dict[str, Any]]) -> dict[str, Any]:
    """What `run` finds of a library on each loop."""
    row: dict[str, Any] = {"library": package, "version": installed(package)}
    for loop in LOOPS if row["version"] else ():
        row[loop] = run(package, loop)
        print(package, loop, row[loop], flush=True)
    return row


@dataclass(frozen=True)
class Table:
    """Rows as data, and the page that shows them between two marks."""

    data: Path
    page: Path
    markdown: Callable[[dict[str, Any]], str]
    marks: tuple[str, str] = (START, END)

    def read(self) -> dict[str, Any]:
        """The data."""
        found: dict[str, Any] = json.loads(self.data.read_text())
        return found

    def write(self, data: dict[str, Any]) -> None:
        """Replace the data; the page is not changed."""
        self.data.write_text(json.dumps(data, indent=1) + "\n")

    def text(self) -> str:
        """The page as it is to be."""
        start, end = self.marks
        before, _, rest = self.page.read_text().partition(start)
        return f"{before}{start}\n\n{self.markdown(self.read())}\n\n{end}{rest.partition(end)[2]}"

    def write_page(self) -> None:
        """Replace the table of the page."""
        self.page.write_text(self.text())
