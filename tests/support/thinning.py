"""The short run: which tests ``pytest tests`` leaves to the exhaustive one.

Most tests run on each driver and on stock asyncio.  Where a folder or a file is listed here, only the runs
named say something new; those on the other drivers get the marker ``exhaustive``, which a test, or one of its
parameters, may also carry itself.  A test without a driver, and one of a file that is not listed,
is in both runs.  The short run does not even collect
what this table leaves out.

``--other-python`` is for a further version of Python, when one has run everything: it leaves out what no
version can change: it looks at the sources, runs in C, forces a driver's limits small,
or repeats in a program what is tested by itself.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
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


#: The longest name that a test's path, or its path and its function, begins with decides.
KEPT: dict[str, frozenset[str]] = {
    # The same code whatever the driver: the loop above the port, asyncio's own, and programs of others.
    "conformance": AUTO,
    "loop": AUTO_AND_STOCK,
    "pool": AUTO_AND_STOCK,
    "programs": AUTO,
    **dict.fromkeys(_files("cli", "demo_threads"), AUTO),
    **dict.fromkeys(_files("cli", "demo", "run"), NOT_SELECT),
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
    "transports": NOT_SELECT,
    "transports/test_sendfile.py::test_a_gibibyte_takes_no_memory": AUTO,
    "files": AUTO,
    **dict.fromkeys(_files("files", "beyond", "slow_disk", "tasks"), AUTO | {"epoll"}),
    "observe": AUTO,
    **dict.fromkeys(_files("observe", "metrics", "stats"), NOT_SELECT),
    # A ring can take and hold what others see; without one it is as on stock asyncio.
    "outside": AUTO,
    "loop/processes": NOT_SELECT,
}

#: What no other version of Python can change (see above).
ANY_PYTHON = (
    *(f"test_{name}.py" for name in ("docs", "layers", "release", "rooms", "thinning", "tidy")),
    *_files("port", "races"),
    "compat",
    "kernels",
    "programs",
)


def short(config: pytest.Config) -> bool:
    """Whether this run leaves out what is exhaustive: it is of folders, and no option says what is wanted."""
    option = config.option
    folders = all(Path(argument).is_dir() for argument in config.args)
    return not option.markexpr and option.driver == "all" and folders


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


def _begins(name: str, prefixes: Iterable[str]) -> list[str]:
    """The prefixes that end where a part of the name does."""
    return [prefix for prefix in prefixes if name == prefix or name.startswith((f"{prefix}/", f"{prefix}::"))]


@functools.cache
def _kept(path: Path, function: str) -> frozenset[str] | None:
    found = _begins(f"{path.relative_to(ROOT).as_posix()}::{function}", KEPT)
    return KEPT[max(found, key=len)] if found else None


def is_short(path: Path, function: str, loop: str) -> bool:
    """Whether the short run has this test on this loop, or variant of a driver."""
    if "-" in loop:  # a variant: the driver itself is in the short run
        return False
    kept = _kept(path, function)
    return kept is None or loop in kept or (loop == _auto() and "auto" in kept)


def loops_for(metafunc: pytest.Metafunc, names: list[str]) -> list[str]:
    """Those of the names that this run is to have the test on."""
    test = metafunc.definition
    if not short(metafunc.config):
        return names
    return [name for name in names if is_short(test.path, test.originalname, name)]


def is_exhaustive(item: pytest.Item) -> bool:
    """Whether the short run is without this test."""
    if item.get_closest_marker("exhaustive") is not None:
        return True
    loop = loop_of(item)
    return loop is not None and not is_short(item.path, getattr(item, "originalname", item.name), loop)


def is_for_any_python(item: pytest.Item) -> bool:
    """Whether no version of Python can change this: variants of a driver have other limits in C."""
    if "-" in (loop_of(item) or ""):
        return True
    return bool(_begins(item.path.relative_to(ROOT).as_posix(), ANY_PYTHON))


def mark(items: list[pytest.Item]) -> None:
    """Give the marker ``exhaustive`` to all that the tables of this module mean."""
    for item in items:
        if item.get_closest_marker("exhaustive") is None and is_exhaustive(item):
            item.add_marker("exhaustive")
