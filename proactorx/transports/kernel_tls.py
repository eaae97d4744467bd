"""Whether the kernel encrypts TLS: it never does here, and this says why."""

from __future__ import annotations

import ssl
import sys
from pathlib import Path

#: The upper-layer protocols of TCP that the kernel has, networking/tls.rst. To try setsockopt(2) with TCP_ULP
#: instead would load the module "tls" where that is allowed.
OFFERED = Path("/proc/sys/net/ipv4/tcp_available_ulp")


def kernel_tls(offered: Path = OFFERED) -> str:
    """Return "no" and the reasons, in words."""
    if sys.platform != "linux":
        return "no (only Linux is looked at)"
    try:
        known = offered.read_text().split()
    except OSError:
        known = []
    if "tls" not in known:
        return "no (the kernel has no TLS, or its module is not loaded)"
    if not hasattr(ssl, "OP_ENABLE_KTLS"):
        return "no (this Python's ssl module cannot ask for it)"
    return "no (the kernel has it, but OpenSSL cannot hand over a connection after its handshake)"
