"""What Windows lacks and what Wine cannot verify: tests that are named in ``excluded.txt`` are skipped,
and counted.

Loaded by ``tests/conftest.py`` on Windows.  A test that Wine cannot verify is run on a real Windows.
"""

from __future__ import annotations

import ctypes
import fnmatch
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
TESTS = HERE.parent
SECTIONS = ("not for Windows", "not verified under Wine")


@dataclass(frozen=True)
class Rule:
    """Tests, and why they are not run."""

    pattern: str
    reason: str
    section: str


def under_wine() -> bool:
    """Whether this Windows is Wine: its ntdll says so."""
    return hasattr(ctypes.windll.ntdll, "wine_get_version")  # type: ignore[attr-defined]


def rules() -> list[Rule]:
    """What ``excluded.txt`` says."""
    section, reason, found = "", "", []
    for line in (HERE / "excluded.txt").read_text("utf-8").splitlines():
        if line.startswith("["):
            section = line.strip("[]")
            assert section in SECTIONS, line
        elif line.startswith("#"):
            reason = line.removeprefix("#").strip()
        elif line.strip():
            found.append(Rule(line.strip(), reason, section))
    return found


ACTIVE = [rule for rule in rules() if rule.section != SECTIONS[1] or under_wine()]
NOT_RUN: dict[str, Rule] = {}  # tests
LEFT_OUT: dict[str, Rule] = {}  # files and folders, which nobody has looked into


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Whole folders and files that need what Windows has not."""
    name = collection_path.relative_to(TESTS).as_posix() if TESTS in collection_path.parents else ""
    for rule in ACTIVE:
        if rule.pattern == name:
            LEFT_OUT[name] = rule
            return True
    return None


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the others, and count those that -k and -m have not left out before."""
    for item in items:
        name = item.nodeid.replace("\\", "/").removeprefix("tests/")
        for rule in ACTIVE:
            if fnmatch.fnmatchcase(name, rule.pattern.replace("[", "[[]")):
                item.add_marker(pytest.mark.skip(reason=f"{rule.section}: {rule.reason}"))
                NOT_RUN[name] = rule
                break


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say what was left out, and how many tests as what: ``run.py`` adds these lines up."""
    for path, rule in LEFT_OUT.items():
        terminalreporter.write_line(f"left out, {rule.section}: {path} ({rule.reason})")
    for name, rule in NOT_RUN.items():
        if rule.section == SECTIONS[1]:
            terminalreporter.write_line(f"not verified: {name} ({rule.reason})")
    for section in SECTIONS:
        count = sum(rule.section == section for rule in NOT_RUN.values())
        if count:
            terminalreporter.write_line(f"{section}: {count}")
