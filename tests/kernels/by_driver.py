"""A plugin of pytest: counts results by the driver that a test ran on, and writes them to $RESULTS."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from typing import Any

DRIVERS = ("io_uring", "epoll", "select")
NONE = "any"  # tests that choose a loop themselves, or need none

counts: dict[str, Counter[str]] = {}
failures: dict[str, str] = {}


def driver_of(test: str) -> str:
    """The driver in the name of a test, as in ``test_it[epoll-8]``."""
    words = re.split(r"[-\[\]]", test.partition("[")[2])
    return next((name for name in DRIVERS if name in words), NONE)


def pytest_runtest_logreport(report: Any) -> None:
    """Count a test once: when it ends, or when it fails or is skipped before."""
    if report.when == "call" or report.outcome != "passed":
        counts.setdefault(driver_of(report.nodeid), Counter())[report.outcome] += 1
        if report.failed:
            failures[report.nodeid] = str(report.longrepr)[-3000:]


def pytest_sessionfinish(session: Any) -> None:
    """Write what was counted, in the process that hears of every test."""
    if hasattr(session.config, "workerinput") or "RESULTS" not in os.environ:
        return
    drivers = {
        name: {key: counts[name][key] for key in ("passed", "failed", "skipped")} | {"again": 0}
        for name in (*DRIVERS, NONE)
        if name in counts
    }
    with open(os.environ["RESULTS"], "w") as file:
        json.dump({"drivers": drivers, "failures": failures}, file)
