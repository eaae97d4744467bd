"""``probe``: which drivers can run here and, for each that cannot, why.

Drawn with rich where it is installed; the plain text and the JSON need nothing but the standard library.
"""

from __future__ import annotations

import json
import os
import platform
import signal
import sys
import textwrap
from typing import Any

import proactorx
from proactorx.drivers import Probe, probe_all
from proactorx.drivers import probe as driver_probe

URING = "io_uring"
SAFE = ("epoll", "select")  # the drivers on whose account nothing is killed
WIDTH = 79


def probe(*, as_json: bool) -> int:
    """Show what was found; the exit code tells whether a loop can start as things are."""
    report = collect()
    if as_json:
        print(json.dumps(report, indent=2))
    else:
        _show(report)
    return 0 if report["chosen"] is not None else 1


def collect() -> dict[str, Any]:
    """All that there is to tell, in JSON's types.

    ``chosen`` is what ``new_event_loop()`` gives here and now, ``PROACTORX_BACKEND`` included; where it gives none it
    is null and ``error`` says why.
    """
    deadly = _deadly()
    found = probe_all() if not deadly else [Probe(URING, False, deadly, suitable=False), *map(driver_probe, SAFE)]
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
        "drivers": drivers,
    }


def _deadly() -> str:
    """Why io_uring must not even be asked for in this process; "" if it may.

    Some sandboxes kill a process for its first call. That is for a child to find out: this command has to tell it.
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
        f"the process that asks for it is killed ({signal.Signals(signal_number).name}), by a sandbox probably: "
        "set PROACTORX_BACKEND=epoll"
    )


def _choose() -> tuple[dict[str, Any] | None, str]:
    try:
        loop = proactorx.new_event_loop()
    except (proactorx.BackendError, ValueError) as error:
        return None, str(error)
    try:
        info = loop.backend_info()
        return {"name": info.name, "reason": info.reason, "tier": info.tier}, ""
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


def plain_text(report: dict[str, Any]) -> str:
    """The report as lines, for a terminal without ``rich``."""
    lines = [f"{name}: {value}" for name, value in summary(report)]
    for driver in report["drivers"]:
        lines += ["", f"{driver['name']}: {verdict(driver)}"]
        for name, value in details(driver):
            lines += textwrap.wrap(f"{name}: {value}", WIDTH, initial_indent="  ", subsequent_indent="    ")
    return "\n".join(lines)


def summary(report: dict[str, Any]) -> list[tuple[str, str]]:
    """What stands above the drivers."""
    chosen = report["chosen"]
    if chosen is None:
        choice = [("chosen", "none"), ("why", report["error"])]
    else:
        choice = [("chosen", named(chosen)), ("why", chosen["reason"])]
    return [
        ("proactorx", report["proactorx"]),
        ("python", f"{report['implementation']} {report['python']}"),
        ("system", f"{report['system']} {report['kernel']}, {report['machine']}"),
        *choice,
    ]


def named(driver: dict[str, Any]) -> str:
    """A driver with its tier."""
    return f"{driver['name']}, tier {driver['tier']}" if driver["tier"] else str(driver["name"])


def verdict(driver: dict[str, Any]) -> str:
    """Whether it runs here, in words."""
    if not driver["available"]:
        return f"cannot run here: {driver['reason']}"
    return "can run here" if driver["suitable"] else f"can run here, but only by name: {driver['reason']}"


def details(driver: dict[str, Any]) -> list[tuple[str, str]]:
    """What else is known of a driver, as (name, text); nothing for what is empty."""
    found = [("tier", driver["tier"])]
    for key, caption in (("features", "features"), ("setup_flags", "setup flags"), ("ops", "ops")):
        words: list[str] = driver[key]
        found.append((caption, ", ".join(words)))
    return [(name, text) for name, text in found if text]
