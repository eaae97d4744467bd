"""The drivers under contract: each as it comes, io_uring with its limits forced small and all else refused,
and iocp in its other ways.

The latter: without memory for waiting streams, without inline successes, without the socket driver's polls,
and with sockets that belong to another port.
"""

from __future__ import annotations

import importlib
from typing import Any

from proactorx import drivers

#: How the driver of each variant is made: its driver, and what ``UringDriver`` or ``IocpDriver`` is told.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "io_uring": ("io_uring", {}),
    "io_uring-small": ("io_uring", {"entries": 4, "cq_entries": 8, "restricted": True}),
    "io_uring-nomultishot": ("io_uring", {"multishot": False}),
    "io_uring-nostreams": ("io_uring", {"streams": False}),
    "epoll": ("epoll", {}),
    "iocp": ("iocp", {}),
    "iocp-small": ("iocp", {"buffers": 1}),
    "iocp-noskip": ("iocp", {"skip": False}),
    "iocp-noafd": ("iocp", {"afd": False}),
    "iocp-foreign": ("iocp", {"binds": False}),
    "select": ("select", {}),
}


def new_driver(variant: str) -> Any:
    """A driver of its own, not opened yet."""
    name, limits = VARIANTS[variant]
    if limits:
        module = importlib.import_module(f"proactorx.drivers.{name}.driver")
        return (module.UringDriver if name == "io_uring" else module.IocpDriver)(**limits)
    return drivers.Choice(name).driver


def runnable(asked: str) -> list[str]:
    """The variants that ``--driver=asked`` means on this machine."""
    if asked == "all":
        names = {found.name for found in drivers.probe_all() if found.available}
    elif asked == "none":
        names = set()
    else:
        names = {drivers.Choice(None).info.name if word == "auto" else word for word in asked.split(",")}
    return [variant for variant, (name, _limits) in VARIANTS.items() if name in names]
