"""A plugin of pytest for two runs of one suite: the second leaves out what has passed in the first.

python -m pytest -p passed_before --note-passed=FILE tests      note what passes
python -m pytest -p passed_before --leave-out=FILE tests        run what has not passed
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """The two options."""
    parser.addoption("--note-passed", type=Path, help="note what passes to this file")
    parser.addoption("--leave-out", type=Path, help="do not run the tests that this file names")


class Passed:
    """The names of the tests of this run that have passed."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.names: dict[str, bool] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A test has passed if its call has, and what is before and after it."""
        if report.when == "call" or not report.passed:
            self.names[report.nodeid] = report.passed and self.names.get(report.nodeid, True)

    def pytest_sessionfinish(self) -> None:
        """Write them."""
        self.file.write_text("".join(f"{name}\n" for name, passed in self.names.items() if passed))


def pytest_configure(config: pytest.Config) -> None:
    """Note them in the process that reports; what the tests start is not to have this plugin."""
    os.environ.pop("PYTEST_ADDOPTS", None)
    os.environ.pop("PYTHONPATH", None)
    file = config.getoption("--note-passed")
    if file is not None and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Passed(file))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what the file names."""
    file = config.getoption("--leave-out")
    if file is None or not file.exists():
        return
    passed = set(file.read_text().splitlines())
    config.hook.pytest_deselected(items=[item for item in items if item.nodeid in passed])
    items[:] = [item for item in items if item.nodeid not in passed]
