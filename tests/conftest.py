"""Which event loops a test runs on.

A test that takes ``loop_factory`` or ``loop``, and every ``async def`` test, runs once on each driver that
this machine has and once on stock asyncio, so that it proves compatibility and not only behaviour.  A test
marked ``ours`` (it tests what stock asyncio does not have) is not run on stock asyncio.

    pytest tests                        every driver, and stock asyncio
    pytest tests --driver=epoll         one driver (or several: io_uring,select), and stock asyncio
    pytest tests --driver=auto          what a program gets that names no driver
    pytest tests --no-stock             without stock asyncio
    pytest tests --driver=none          stock asyncio alone: what do these tests say of the reference?

``pytest tests`` leaves out what carries the marker ``exhaustive`` (``support/thinning.py``),
and uses all processors:

    pytest tests -m "exhaustive or not exhaustive"      everything
    pytest tests -n 0                                   in one process
    pytest tests --other-python                         without what no version of Python can change

Nothing is left out where ``-m`` or ``--driver`` says what is wanted,
or a file or a test is named and not a folder.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from support import thinning

DRIVERS = ("io_uring", "epoll", "iocp", "select")
WORDS = (*DRIVERS, "auto")

if sys.platform == "win32":
    pytest_plugins = ("tests.windows.plugin",)

STOCK = asyncio.ProactorEventLoop if sys.platform == "win32" else asyncio.SelectorEventLoop

Factory = Callable[[], asyncio.AbstractEventLoop]


@functools.cache  # one object for each: pytest-asyncio compares them
def _ours(backend: str) -> Factory:
    import proactorx

    return functools.partial(proactorx.new_event_loop, backend=backend)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--driver", default="all", help=f"{', '.join(WORDS)}, a comma list of them, all or none")
    parser.addoption("--no-stock", action="store_true", help="do not run the tests on stock asyncio too")
    parser.addoption("--other-python", action="store_true", help="without what no Python changes")


@functools.cache
def _runnable() -> tuple[str, ...]:
    import proactorx.drivers

    return tuple(p.name for p in proactorx.drivers.probe_all() if p.available and p.name in DRIVERS)


def _drivers(config: pytest.Config) -> list[str]:
    asked = config.getoption("--driver")
    if asked == "all":
        return list(_runnable())
    if asked == "none":
        return []
    names = asked.split(",")
    for name in names:
        if name not in WORDS:
            raise pytest.UsageError(f"--driver: {name!r} is not one of {', '.join(WORDS)}")
    return names


def _factories(config: pytest.Config, *, stock: bool) -> dict[str, Factory]:
    out: dict[str, Factory] = {name: _ours(name) for name in _drivers(config)}
    if stock and not config.getoption("--no-stock"):
        out["asyncio"] = STOCK
    return out


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> Mapping[str, Factory]:
    found = _factories(config, stock=item.get_closest_marker("ours") is None)
    if thinning.short(config):
        function = getattr(item, "originalname", item.name)
        wanted = {name: make for name, make in found.items() if thinning.is_short(item.path, function, name)}
        # pytest-asyncio names the loop in the test's name only where there are several.
        found = wanted if len(wanted) > 1 else found
    # pytest-asyncio refuses an empty mapping; this test is deselected below.
    return found or {"asyncio": STOCK}


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    left_out: set[pytest.Item] = set()
    if not _drivers(config):
        left_out |= {item for item in items if item.get_closest_marker("ours") is not None}
    if config.option.driver == "all":
        thinning.mark(items)
    if config.getoption("--other-python"):
        left_out |= {item for item in items if thinning.is_for_any_python(item)}
    if thinning.short(config):
        left_out |= {item for item in items if item.get_closest_marker("exhaustive") is not None}
    if left_out:
        config.hook.pytest_deselected(items=[item for item in items if item in left_out])
        items[:] = [item for item in items if item not in left_out]


@pytest.hookimpl(tryfirst=True)  # before xdist looks at its options
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Folders are tested on all processors, file by file, unless the command line says how."""
    option = config.option
    if getattr(option, "numprocesses", 0) is not None or hasattr(config, "workerinput"):
        return  # without xdist; told how many; or one of the processes
    alone = option.collectonly or option.usepdb or option.capture == "no" or sys.platform == "win32"
    if not alone and all(Path(argument).is_dir() for argument in config.args):
        # One more than processors: tests wait for a good part of their time.
        option.numprocesses = (os.cpu_count() or 1) + 1
        option.dist = "loadfile"


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--no-stock") and config.getoption("--driver") == "none":
        raise pytest.UsageError("--driver=none and --no-stock leave nothing to test on")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "loop_factory" in metafunc.fixturenames and metafunc.definition.get_closest_marker("asyncio") is None:
        stock = metafunc.definition.get_closest_marker("ours") is None
        found = _factories(metafunc.config, stock=stock)
        names = thinning.loops_for(metafunc, list(found))
        metafunc.parametrize("loop_factory", [found[name] for name in names], ids=names, scope="function")
    if "driver_name" in metafunc.fixturenames:
        metafunc.parametrize("driver_name", thinning.loops_for(metafunc, _drivers(metafunc.config)))


@pytest.fixture
def loop(loop_factory: Factory) -> Iterator[asyncio.AbstractEventLoop]:
    """A fresh loop, closed afterwards; what it leaves behind is collected while warnings are still errors."""
    loop = loop_factory()
    asyncio.set_event_loop(loop)
    try:
        yield loop
    finally:
        if not loop.is_closed():
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()
        asyncio.set_event_loop(None)
        gc.collect()


@pytest.fixture
def errors(loop: asyncio.AbstractEventLoop) -> list[dict[str, Any]]:
    """What the loop's exception handler is given during the test."""
    seen: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _loop, context: seen.append(context))
    return seen


def pytest_collection_finish() -> None:
    """Ten thousand collected tests are a million objects,
    which each ``gc.collect`` after a test would look at.
    """
    gc.collect()
    gc.freeze()
