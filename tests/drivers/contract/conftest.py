"""One port for each variant of each driver; every test gives back each descriptor that it has opened."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support import thinning

from proactorx.port.loop_port import LoopPort

from .support import Sockets, descriptors
from .variants import new_driver, runnable


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "variant" in metafunc.fixturenames:
        names = runnable(metafunc.config.getoption("--driver"))
        metafunc.parametrize("variant", thinning.loops_for(metafunc, names), scope="function")


@pytest.fixture(autouse=True)
def _no_descriptor_is_left() -> Iterator[None]:
    before = descriptors()
    yield
    if descriptors() - before:
        gc.collect()
    left = descriptors() - before
    assert not left, f"descriptors left open: {sorted(left)}"


@pytest.fixture
def sockets() -> Iterator[Sockets]:
    """Makes sockets, and closes them at the end of the test."""
    with Sockets() as made:
        yield made


@pytest.fixture
def new_port(variant: str) -> Iterator[Callable[[], LoopPort]]:
    """Makes ports, and closes them at the end of the test."""
    made: list[LoopPort] = []

    def make() -> LoopPort:
        made.append(LoopPort(new_driver(variant)))
        return made[-1]

    yield make
    for port in made:
        port.close()
        assert port.driver.inflight == []


@pytest.fixture
def port(new_port: Callable[[], LoopPort]) -> LoopPort:
    """A port on the driver under test, closed at the end."""
    return new_port()


@pytest.fixture
def new_loop(variant: str, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Any]:
    """Makes event loops on the driver under test."""
    import proactorx

    name = variant.partition("-")[0]
    if variant != name:
        monkeypatch.setattr("proactorx.drivers._make", lambda *_: new_driver(variant))
    return lambda: proactorx.new_event_loop(name)


@pytest.fixture
def loop(new_loop: Callable[[], Any]) -> Iterator[Any]:
    """One event loop on the driver under test."""
    loop = new_loop()
    try:
        yield loop
    finally:
        loop.close()
