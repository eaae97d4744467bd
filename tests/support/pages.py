"""Files and commands of the pages of the documentation, for tests that do what a page says."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

PAGES = Path(__file__).resolve().parents[2] / "docs" / "pages"


def blocks(text: str, language: str) -> list[str]:
    """What stands in the blocks of this language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def sections(page: Path) -> dict[str, str]:
    """The text under each heading; what comes before the first one is under ""."""
    parts = re.split(r"^## (.+)\n", page.read_text(), flags=re.MULTILINE)
    return {"": parts[0], **dict(zip(parts[1::2], parts[2::2], strict=True))}


def write_files(text: str, folder: Path, replaced: dict[str, str]) -> None:
    """The files of a section: their first line is their name. Ports and addresses are replaced."""
    for block in blocks(text, "python"):
        name = block.partition("\n")[0].removeprefix("# ")
        assert re.fullmatch(r"\w+\.py", name), block
        (folder / name).write_text(_replace(block, replaced))


def command_argv(command: str, replaced: dict[str, str]) -> list[str]:
    """A command of a page, with the program of this Python."""
    words = shlex.split(_replace(command, replaced))
    if words[0] == "python":
        return [sys.executable, *words[1:]]
    return [sys.executable, "-m", *words]


def _replace(text: str, replaced: dict[str, str]) -> str:
    for old, new in replaced.items():
        text = text.replace(old, new)
    return text
