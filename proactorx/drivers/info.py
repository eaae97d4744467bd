"""What is known of a driver: whether it can run here (``Probe``), and why it was chosen (``BackendInfo``)."""

from __future__ import annotations

import logging
import os
import sys
from dataclasses import dataclass, field

logger: logging.Logger = logging.getLogger("proactorx")


def system() -> tuple[str, str]:
    """The release of the kernel, and the architecture.

    Without ``platform`` where the system tells: its import takes longer than a probe.
    """
    if sys.platform == "win32":
        import platform

        return platform.release(), platform.machine()
    found = os.uname()
    return found.release, found.machine


class BackendError(RuntimeError):
    """The named backend cannot run here; the message says why."""


@dataclass(frozen=True)
class Probe:
    """What one driver can do on this machine."""

    name: str
    available: bool
    #: Why the driver cannot run, in words; "" when it can.
    reason: str = ""
    #: io_uring: the feature tier, U0 to U3 (see the documentation of backends).
    tier: str = ""
    kernel: str = ""
    features: tuple[str, ...] = ()
    #: io_uring: names of the supported operations.
    ops: tuple[str, ...] = ()
    setup_flags: tuple[str, ...] = ()
    #: Whether ``auto`` may take this driver; `reason` says why not when it is False.
    suitable: bool = True


@dataclass(frozen=True)
class BackendInfo:
    """What runs underneath a loop."""

    name: str
    #: Why it was chosen, in one line.
    reason: str
    tier: str = ""
    kernel: str = ""
    features: tuple[str, ...] = ()
    #: The drivers that ``auto`` preferred but could not take, and why.
    rejected: dict[str, str] = field(default_factory=dict)
    #: What ``restrict=True`` does with this driver, in words; "" where it was not asked for.
    restriction: str = ""
    #: What UDP can do here: ``gso`` (sending in trains), ``gro`` (receiving merged ones).
    datagrams: tuple[str, ...] = ()
    #: How TLS moves its bytes, in words: by libssl directly, or through the ``ssl`` module and why.
    tls: str = ""
    #: ``compiled``, or ``stock`` and why: what ``asyncio.start_server`` makes on a loop; "" on a port.
    streams: str = ""
