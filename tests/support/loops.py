"""Loops by name, for programs that tests start and that are told which to run on."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable


def maker(name: str) -> Callable[[], asyncio.AbstractEventLoop]:
    """What makes a loop of this kind; ``proactorx.epoll`` names a backend."""
    if name == "asyncio":
        return asyncio.SelectorEventLoop
    if name == "uvloop":
        import uvloop

        return uvloop.new_event_loop
    import proactorx

    backend = name.partition(".")[2] or None
    return lambda: proactorx.new_event_loop(backend)


def tested() -> Callable[[], asyncio.AbstractEventLoop]:
    """What makes the loop that the variable ``TESTED_LOOP`` names."""
    return maker(os.environ.get("TESTED_LOOP", "proactorx"))
