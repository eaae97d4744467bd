"""Whether the completion port can be used here: it can on every Windows that Python runs on."""

from __future__ import annotations

import platform

from proactorx.drivers.info import Probe


def probe() -> Probe:
    """Import the compiled driver, and say so where it was not built."""
    try:
        import proactorx.drivers.iocp.driver  # noqa: F401
    except ImportError as exc:
        return Probe("iocp", False, f"the compiled driver is missing: {exc}", suitable=False)
    return Probe("iocp", True, kernel=platform.version())
