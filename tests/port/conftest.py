"""Completion ports on each driver; every test gives back its descriptors, and no thread is left behind."""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support import thinning

import proactorx
from proactorx import drivers

from .support import Pairs, descriptors

#: io_uring with its limits forced small.
SMALL: dict[str, dict[str, Any]] = {
    "io_uring-small": {"entries": 4, "cq_entries": 8},
    "io_uring-plain": {"multishot": False},
}

WINDOWS = sys.platform == "win32"
NewPort = Callable[..., proactorx.CompletionPort]


def _variants(asked: str) -> list[str]:
    if asked == "none":
        return []
    # Windows has a port of its own, and no other is made there.
    names = [
        found.name
        for found in drivers.probe_all()
        if found.available and (not WINDOWS or found.name == "iocp")
    ]
    if asked != "all":
        words = {drivers.Choice(None).info.name if word == "auto" else word for word in asked.split(",")}
        names = [name for name in names if name in words]
    return names + [name for name in SMALL if "io_uring" in names]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "variant" in metafunc.fixturenames:
        names = _variants(metafunc.config.getoption("--driver"))
        metafunc.parametrize("variant", thinning.loops_for(metafunc, names))


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    before, threads = descriptors(), _threads()
    yield
    if descriptors() - before:
        gc.collect()
    assert not descriptors() - before, "descriptors are left open"
    assert not _threads() - threads, "threads are left"


def _threads() -> set[threading.Thread]:
    # The IO threads of the process stay, for whoever comes next.
    return {thread for thread in threading.enumerate() if not thread.name.startswith("proactorx-")}


@pytest.fixture
def new_port(variant: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[NewPort]:
    """Makes ports on the driver under test, and closes them at the end."""
    if variant in SMALL:
        from proactorx.drivers.io_uring.driver import UringDriver

        def make_driver(found: object, *, shared: bool = False, restricted: bool = False) -> UringDriver:
            return UringDriver(shared=shared, **SMALL[variant])

        monkeypatch.setattr("proactorx.drivers.io_uring.probe.make_driver", make_driver)
    made: list[proactorx.CompletionPort] = []

    def make(concurrency: int = 0) -> proactorx.CompletionPort:
        made.append(proactorx.CompletionPort(concurrency, variant.partition("-")[0]))
        return made[-1]

    yield make
    for port in made:
        port.close()
        port.dissociate()
        assert port.in_flight == port.queued == 0


@pytest.fixture
def port(new_port: NewPort) -> proactorx.CompletionPort:
    """A port on the driver under test."""
    return new_port()


@pytest.fixture
def pairs() -> Iterator[Pairs]:
    """Makes sockets, and closes them at the end."""
    with Pairs() as made:
        yield made
