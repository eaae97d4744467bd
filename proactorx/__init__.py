"""proactorx: an asyncio event loop that waits only on a completion port.

asyncio.run(main(), loop_factory=proactorx.new_event_loop)     # Python 3.12 and later
proactorx.run(main())                                          # every Python
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from sys import version_info as _python  # `sys` is the room of that name here
from typing import TYPE_CHECKING, Any, TypeVar

try:
    import proactorx._cython  # noqa: F401
except ModuleNotFoundError as _error:
    if _error.name != "proactorx._cython":
        raise
    # What a newcomer meets who has installed the package and starts Python in the clone.
    raise ImportError(
        f"{__path__[0]} has the sources of proactorx, not compiled for this Python. If it is installed, "
        "start Python in another folder. To use this one, compile it: python -m pip install -e ."
    ) from None

from proactorx.drivers import BackendError, BackendInfo
from proactorx.loop.event_loop import EventLoop
from proactorx.observe import running
from proactorx.pool import IOThreadPool, default_pool
from proactorx.port.public import CompletionPort, Overlapped, Packet, PortClosed, run_bodies_on
from proactorx.transports.udp import DatagramInfo

if TYPE_CHECKING:
    import sys

    from proactorx.files import open
    from proactorx.observe.stats import LoopStats

    if sys.version_info < (3, 16):
        from asyncio import DefaultEventLoopPolicy as EventLoopPolicy  # ours is a class derived from it

__all__ = [
    "BackendError",
    "BackendInfo",
    "CompletionPort",
    "DatagramInfo",
    "EventLoop",
    "IOThreadPool",
    "LoopStats",
    "Overlapped",
    "Packet",
    "PortClosed",
    "install",
    "loops",
    "new_event_loop",
    "open",
    "run",
]
if _python < (3, 16):
    __all__ += ["EventLoopPolicy"]  # created on first use, see __getattr__
__version__ = "0.1.0"

run_bodies_on(default_pool)

_T = TypeVar("_T")


def new_event_loop(backend: str | None = None, *, spin: float = 0, restrict: bool = False) -> EventLoop:
    """Create an event loop. See ``EventLoop`` for the arguments and errors."""
    return EventLoop(backend, spin=spin, restrict=restrict)


def run(
    main: Coroutine[Any, Any, _T],
    *,
    debug: bool | None = None,
    backend: str | None = None,
    spin: float = 0,
    restrict: bool = False,
) -> _T:
    """Run a coroutine on a new proactorx loop, as ``asyncio.run`` does, and return its result.

    Args:
        main: the coroutine to run.
        debug: whether the loop is in debug mode; None: as in ``asyncio.run``.
        backend: see ``EventLoop``.
        spin: see ``EventLoop``.
        restrict: see ``EventLoop``.

    Raises:
        RuntimeError: this thread already runs a loop.
    """
    if asyncio._get_running_loop() is not None:
        raise RuntimeError("proactorx.run() cannot be called from a running event loop")

    def factory() -> EventLoop:
        return new_event_loop(backend, spin=spin, restrict=restrict)

    with asyncio.Runner(debug=debug, loop_factory=factory) as runner:
        return runner.run(main)


def install() -> None:
    """Make proactorx the default loop of asyncio, by setting an event loop policy.

    Prefer ``loop_factory`` or ``run``: policies are deprecated since Python 3.14.

    Raises:
        RuntimeError: this Python has no policies (3.16 and later).
    """
    from proactorx.loop import policy

    policy.install()


def loops() -> tuple[EventLoop, ...]:
    """Return the loops of this package that run now, in any thread, in the order in which they began to."""
    return tuple(loop for loop in running.loops() if isinstance(loop, EventLoop))


def __getattr__(name: str) -> Any:
    # Policies are deprecated since Python 3.14 and removed in 3.16: importing proactorx must not touch them.
    if name == "EventLoopPolicy":
        from proactorx.loop import policy

        try:
            return policy.policy_class()
        except RuntimeError as exc:
            raise AttributeError(str(exc)) from None
    # Imported on first use: a server may need neither.
    if name == "open":
        from proactorx import files

        return files.open
    if name == "LoopStats":
        from proactorx.observe.stats import LoopStats

        return LoopStats
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
