"""The completion port of this system: Windows has one of its own, elsewhere it is ours."""

from __future__ import annotations

import sys

from proactorx.port.operations import Overlapped, run_bodies_on
from proactorx.port.packet import Packet, PortClosed

if sys.platform == "win32":
    from proactorx.port.completion_port_windows import CompletionPort
else:
    from proactorx.port.completion_port_posix import CompletionPort

__all__ = ["CompletionPort", "Overlapped", "Packet", "PortClosed", "run_bodies_on"]
