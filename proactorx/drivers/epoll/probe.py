"""Whether epoll can run here: it can on every Linux that Python runs on."""

from __future__ import annotations

import platform

from proactorx.drivers.info import Probe


def probe() -> Probe:
    """Import the compiled driver, and say so where it was not built."""
    try:
        import proactorx.drivers.epoll.driver  # noqa: F401
    except ImportError as exc:
        return Probe("epoll", False, f"the compiled driver is missing: {exc}", suitable=False)
    return Probe("epoll", True, kernel=platform.release())
