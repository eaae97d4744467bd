"""The report of ``probe`` as text: as lines, and piece by piece for tables."""

from __future__ import annotations

import textwrap
from typing import Any

WIDTH = 79


def plain_text(report: dict[str, Any]) -> str:
    """Return the report as plain text."""
    lines = [f"{name}: {value}" for name, value in summary(report)]
    for driver in report["drivers"]:
        lines += ["", f"{driver['name']}: {verdict(driver)}"]
        for name, value in details(driver):
            lines += textwrap.wrap(f"{name}: {value}", WIDTH, initial_indent="  ", subsequent_indent="    ")
    return "\n".join(lines)


def summary(report: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the lines above the drivers, as (name, text)."""
    chosen = report["chosen"]
    if chosen is None:
        choice = [("chosen", "none"), ("why", report["error"])]
    else:
        choice = [("chosen", named(chosen)), ("why", chosen["reason"]), ("streams", chosen["streams"])]
    return [
        ("proactorx", report["proactorx"]),
        ("python", f"{report['implementation']} {report['python']}"),
        ("system", f"{report['system']} {report['kernel']}, {report['machine']}"),
        *choice,
        ("datagrams", ", ".join(report["datagrams"]) or "one by one"),
        ("TLS", report["tls"]),
        ("kernel TLS", report["ktls"]),
    ]


def named(driver: dict[str, Any]) -> str:
    """Return the name of a driver, with its tier."""
    return f"{driver['name']}, tier {driver['tier']}" if driver["tier"] else str(driver["name"])


def verdict(driver: dict[str, Any]) -> str:
    """Return whether a driver can run here, in words."""
    if not driver["available"]:
        return f"cannot run here: {driver['reason']}"
    return "can run here" if driver["suitable"] else f"can run here, but only by name: {driver['reason']}"


def details(driver: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the other facts about a driver, as (name, text), without empty ones."""
    found = [("tier", driver["tier"])]
    for key, caption in (("features", "features"), ("setup_flags", "setup flags"), ("ops", "ops")):
        words: list[str] = driver[key]
        found.append((caption, ", ".join(words)))
    return [(name, text) for name, text in found if text]
