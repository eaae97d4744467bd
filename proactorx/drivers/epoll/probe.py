"""Whether epoll can run here: it can on every Linux that Python runs on."""

from __future__ import annotations

from proactorx.drivers.info import Probe, system


def probe() -> Probe:
    """Import the compiled driver, and say so where it was not built."""
    try:
        import proactorx.drivers.epoll.driver  # noqa: F401
    except ImportError as exc:
        return Probe("epoll", False, f"the compiled driver is missing: {exc}", suitable=False)
    return Probe("epoll", True, kernel=system()[0])
