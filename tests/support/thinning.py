"""The short run: which tests ``pytest tests`` leaves to the exhaustive one.

Most tests run on each driver and on stock asyncio.  Where a folder or a file is listed here, only the runs
named say something new; those on the other drivers get the marker ``exhaustive``, which a test, or one of its
parameters, may also carry itself.  A test without a driver, and one of a file that is not listed,
is in both runs.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
STOCK = "asyncio"

AUTO = frozenset({"auto"})  # what a program gets that names no driver
AUTO_AND_STOCK = AUTO | {STOCK}
#: Without ``select``, which does all but the waiting with the code that it shares with ``epoll``.
NOT_SELECT = AUTO | {"epoll", STOCK}


def _files(folder: str, *names: str) -> list[str]:
    return [f"{folder}/test_{name}.py" for name in names]


#: The longest name that a test's path begins with decides.
KEPT: dict[str, frozenset[str]] = {
    # The same code whatever the driver: the loop above the port, asyncio's own, and programs of others.
    "conformance": AUTO,
    "loop": AUTO_AND_STOCK,
    "pool": AUTO_AND_STOCK,
    "programs": AUTO,
    **dict.fromkeys(_files("cli", "demo_threads"), AUTO),
    # Long, and found something on one driver only when it was on all of them, as the contract's tests are.
    **dict.fromkeys(_files("drivers/contract", "stress"), AUTO),
    **dict.fromkeys(_files("loop", "ctrl_c", "fork"), AUTO),
    **dict.fromkeys(_files("port", "model"), AUTO),
    **dict.fromkeys(_files("loop/processes", "anywhere", "trouble"), AUTO),
    **dict.fromkeys(
        _files(
            "transports",
            "cancelled_anywhere",
            "leaks_families",
            "random",
            "starved_anywhere",
            "stream_readers",
        ),
        AUTO,
    ),
    **dict.fromkeys(_files("loop", "moving", "readers", "threads"), NOT_SELECT),
    **dict.fromkeys(_files("transports", "buffered", "listener", "pause", "sendfile"), NOT_SELECT),
    "files": AUTO,
    **dict.fromkeys(_files("files", "beyond", "slow_disk", "tasks"), AUTO | {"epoll"}),
    "outside": AUTO | {"epoll"},
    "loop/processes": NOT_SELECT,
    "transports/pipes": NOT_SELECT,
    "transports/tls": NOT_SELECT,
}


@functools.cache
def _auto() -> str:
    from proactorx import drivers

    return str(drivers.Choice(None).info.name)


def _word(value: Any) -> str | None:
    """The loop that a parameter names: a driver, a variant of one, stock asyncio, or none at all."""
    if isinstance(value, functools.partial):
        return str(value.keywords.get("backend"))
    if isinstance(value, type):
        return STOCK
    return value if isinstance(value, str) else None


def loop_of(item: pytest.Item) -> str | None:
    """Which loop or driver a test runs on, as the parameters that the conftests make say;
    None if they say nothing.
    """
    params: dict[str, Any] = getattr(getattr(item, "callspec", None), "params", {})
    for name in ("loop_factory", "_asyncio_loop_factory", "driver_name", "variant"):
        if name in params:
            return _word(params[name])
    return None


def _kept(path: Path) -> frozenset[str] | None:
    name = path.relative_to(ROOT).as_posix()
    found = [prefix for prefix in KEPT if name == prefix or name.startswith(f"{prefix}/")]
    return KEPT[max(found, key=len)] if found else None


def is_exhaustive(item: pytest.Item) -> bool:
    """Whether the short run is without this test."""
    if item.get_closest_marker("exhaustive") is not None:
        return True
    loop = loop_of(item)
    if loop is None:
        return False
    if "-" in loop:  # a variant: the driver itself is in the short run
        return True
    kept = _kept(item.path)
    return kept is not None and loop not in kept and not (loop == _auto() and "auto" in kept)


def mark(items: list[pytest.Item]) -> None:
    """Give the marker ``exhaustive`` to all that the tables of this module mean."""
    for item in items:
        if item.get_closest_marker("exhaustive") is None and is_exhaustive(item):
            item.add_marker("exhaustive")
