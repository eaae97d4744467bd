"""Which event loops a test runs on.

A test that takes ``loop_factory`` or ``loop``, and every ``async def`` test, runs once on each driver that
this machine has and once on stock asyncio, so that it proves compatibility and not only behaviour.  A test
marked ``ours`` (it tests what stock asyncio does not have) is not run on stock asyncio.

    pytest tests                        every driver, and stock asyncio
    pytest tests --driver=epoll         one driver (or several: io_uring,select), and stock asyncio
    pytest tests --driver=auto          what a program gets that names no driver
    pytest tests --no-stock             without stock asyncio
    pytest tests --driver=none          stock asyncio alone: what do these tests say of the reference?
"""

from __future__ import annotations

import asyncio
import functools
import gc
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

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
    # pytest-asyncio refuses an empty mapping; this test is deselected below.
    return found or {"asyncio": STOCK}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if _drivers(config):
        return
    marked = [item.get_closest_marker("ours") is not None for item in items]
    config.hook.pytest_deselected(items=[item for item, ours in zip(items, marked, strict=True) if ours])
    items[:] = [item for item, ours in zip(items, marked, strict=True) if not ours]


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--no-stock") and config.getoption("--driver") == "none":
        raise pytest.UsageError("--driver=none and --no-stock leave nothing to test on")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "loop_factory" in metafunc.fixturenames and metafunc.definition.get_closest_marker("asyncio") is None:
        stock = metafunc.definition.get_closest_marker("ours") is None
        found = _factories(metafunc.config, stock=stock)
        metafunc.parametrize("loop_factory", list(found.values()), ids=list(found), scope="function")
    if "driver_name" in metafunc.fixturenames:
        metafunc.parametrize("driver_name", _drivers(metafunc.config))


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
    """Ten thousand collected tests are a million objects, which each ``gc.collect`` after a test would look at."""
    gc.collect()
    gc.freeze()
