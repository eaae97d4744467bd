"""``probe``: show which drivers can run here and why the others cannot.

Uses rich if it is installed. The plain text and the JSON need only the standard library.
"""

from __future__ import annotations

import json
import os
import platform
import signal
import sys
from typing import Any

import proactorx
from proactorx.cli.report import plain_text
from proactorx.drivers import Probe, probe_all
from proactorx.drivers import probe as driver_probe
from proactorx.transports import tls_direct
from proactorx.transports.udp import udp_features

URING = "io_uring"
SAFE = ("epoll", "select")  # no sandbox kills a process that probes these


def probe(*, as_json: bool) -> int:
    """Print the report, and return the exit code: 0 if a loop can start."""
    report = collect()
    if as_json:
        print(json.dumps(report, indent=2))
    else:
        _show(report)
    return 0 if report["chosen"] is not None else 1


def collect() -> dict[str, Any]:
    """Return the report, in JSON's types.

    ``chosen`` is the driver that ``new_event_loop()`` would use now, ``PROACTORX_BACKEND`` included. It is
    None if no loop can start; ``error`` then says why.
    """
    deadly = _deadly()
    found = (
        probe_all() if not deadly else [Probe(URING, False, deadly, suitable=False), *map(driver_probe, SAFE)]
    )
    if deadly and os.environ.get("PROACTORX_BACKEND", "auto") in ("", "auto", URING):
        chosen, error = None, f"{URING} would be tried, but {deadly}"
    else:
        chosen, error = _choose()
    drivers = [
        {
            "name": one.name,
            "available": one.available,
            "suitable": one.suitable,
            "reason": one.reason,
            "tier": one.tier,
            "kernel": one.kernel,
            "features": list(one.features),
            "setup_flags": list(one.setup_flags),
            "ops": list(one.ops),
        }
        for one in found
    ]
    return {
        "proactorx": proactorx.__version__,
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "system": platform.system(),
        "kernel": platform.release(),
        "machine": platform.machine(),
        "chosen": chosen,
        "error": error,
        "datagrams": list(udp_features()),
        "tls": tls_direct.how(),
        "ktls": tls_direct.kernel(),
        "drivers": drivers,
    }


def _deadly() -> str:
    """Return why this process must not call io_uring, or "" if it may.

    Some sandboxes kill a process at its first call. A child process finds out,
    so that this one can report it.
    """
    if not sys.platform.startswith("linux"):
        return ""
    child = os.fork()
    if child == 0:
        try:
            import resource

            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            driver_probe(URING)
        finally:
            os._exit(0)
    signal_number = -os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if signal_number == 0:
        return ""
    return (
        f"the process that asks for it is killed ({signal.Signals(signal_number).name}), probably by a "
        "sandbox: set PROACTORX_BACKEND=epoll"
    )


def _choose() -> tuple[dict[str, Any] | None, str]:
    try:
        loop = proactorx.new_event_loop()
    except (proactorx.BackendError, ValueError) as error:
        return None, str(error)
    try:
        info = loop.backend_info()
        return {"name": info.name, "reason": info.reason, "tier": info.tier, "streams": info.streams}, ""
    finally:
        loop.close()


def _show(report: dict[str, Any]) -> None:
    try:
        from proactorx.cli import render
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "rich":
            raise
        print(plain_text(report))
        return
    render.show_probe(report)
