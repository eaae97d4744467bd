"""The event loop policy, for Pythons that have policies."""

from __future__ import annotations

import asyncio
import functools
import sys
import warnings
from typing import Any


@functools.cache
def policy_class() -> Any:
    """The policy class, made when somebody asks for it.

    Raises:
        RuntimeError: Python 3.16 and later have no policies.
    """
    if sys.version_info >= (3, 16):
        raise RuntimeError(
            "Python 3.16 has no event loop policies; "
            "use asyncio.run(main(), loop_factory=proactorx.new_event_loop)"
        )
    with warnings.catch_warnings():
        # Deprecated since 3.14; the warning is for those who call the policy API, not for us.
        warnings.simplefilter("ignore", DeprecationWarning)
        base: Any = asyncio.DefaultEventLoopPolicy

        class EventLoopPolicy(base):  # type: ignore[misc]
            """Makes proactorx loops; everything else is asyncio's default policy."""

            def _loop_factory(self) -> asyncio.AbstractEventLoop:
                from proactorx.loop.event_loop import EventLoop

                return EventLoop()

    EventLoopPolicy.__module__ = "proactorx"
    EventLoopPolicy.__qualname__ = "EventLoopPolicy"
    return EventLoopPolicy


def install() -> None:
    """Set the policy for this process."""
    policy = policy_class()()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        asyncio.set_event_loop_policy(policy)
