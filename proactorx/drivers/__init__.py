"""Which driver runs, and why.

Nothing is probed at import, and nothing before the environment has been read: some sandboxes kill a process for the
first io_uring call it makes.  Probing happens once per process, when the first loop is made.
"""

from __future__ import annotations

import functools
import logging
import os
import platform
import sys
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from proactorx.drivers.driver import Driver

__all__ = ["BackendError", "BackendInfo", "Probe", "open_driver", "probe", "probe_all"]

logger = logging.getLogger("proactorx")

#: The words that ``backend=`` and ``$PROACTORX_BACKEND`` know.
WORDS = ("auto", "io_uring", "epoll", "iocp", "select", "sim")
_DRIVERS = ("io_uring", "epoll", "select")
_MISSING = {
    "iocp": "the iocp driver is not part of this version (it is for Windows)",
    "sim": "the sim driver is not part of this version",
}


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


def _probe_select() -> Probe:
    return Probe("select", True, kernel=platform.release())


@functools.cache
def probe(name: str) -> Probe:
    """Whether driver `name` can run here.  Asked once per process.

    Raises:
        ValueError: there is no driver of that name.
    """
    if name in _MISSING:
        return Probe(name, False, _MISSING[name], suitable=False)
    if name not in _DRIVERS:
        raise ValueError(f"unknown backend {name!r}: one of {', '.join(WORDS)}")
    if name == "select":
        return _probe_select()
    if not sys.platform.startswith("linux"):
        return Probe(name, False, f"{name} is a facility of Linux, and this is {sys.platform}", suitable=False)
    found: Probe = import_module(f"proactorx.drivers.{name}.probe").probe()
    return found


def probe_all() -> list[Probe]:
    """What each driver can do here, in the order in which ``auto`` prefers them."""
    return [probe(name) for name in _DRIVERS]


def _open(name: str) -> Driver:
    if name == "select":
        driver: Driver = import_module("proactorx.drivers.select.driver").SelectDriver()
    elif name == "epoll":
        driver = import_module("proactorx.drivers.epoll.driver").EpollDriver()
    else:
        driver = import_module("proactorx.drivers.io_uring.probe").open_driver()
    return driver


def _info(name: str, reason: str, rejected: dict[str, str]) -> BackendInfo:
    found = probe(name)
    return BackendInfo(name, reason, found.tier, found.kernel, found.features, rejected)


def open_driver(backend: str | None = None) -> tuple[Driver, BackendInfo]:
    """A driver of the kind that `backend` names, or the best one there is.

    Args:
        backend: one of ``WORDS``; None: what ``$PROACTORX_BACKEND`` says, else ``auto``.

    Raises:
        ValueError: an unknown word.
        BackendError: the named driver cannot run here.  Only ``auto`` falls back to another one.
    """
    word, source = backend, "backend argument"
    if word is None:
        word, source = os.environ.get("PROACTORX_BACKEND") or "auto", "PROACTORX_BACKEND"
    if word not in WORDS:
        raise ValueError(f"unknown backend {word!r} ({source}): one of {', '.join(WORDS)}")
    if word != "auto":
        return _open_named(word, source)
    rejected: dict[str, str] = {}
    for name in _DRIVERS:
        found = probe(name)
        if not found.available or not found.suitable:
            rejected[name] = found.reason
            continue
        try:
            driver = _open(name)
        except OSError as exc:
            import errno

            if name == "select" or exc.errno in (errno.EMFILE, errno.ENFILE):
                raise  # not a matter of the driver: no other would fare better
            rejected[name] = f"{exc.strerror} when it was opened"
            continue
        info = _info(name, _reason(name, rejected), rejected)
        _say_once(info)
        return driver, info
    raise AssertionError("select can always run")


def _open_named(word: str, source: str) -> tuple[Driver, BackendInfo]:
    found = probe(word)
    if not found.available:
        raise BackendError(f"backend {word} ({source}) cannot run here: {found.reason}")
    return _open(word), _info(word, f"named by {source}", {})


def _reason(name: str, rejected: dict[str, str]) -> str:
    if rejected:
        return "; ".join(f"{other}: {why}" for other, why in rejected.items() if why)
    return f"tier {probe(name).tier}" if probe(name).tier else "first choice"


_said: set[str] = set()


def _say_once(info: BackendInfo) -> None:
    line = f"proactorx: backend={info.name} ({info.reason})"
    if line not in _said:
        _said.add(line)
        logger.info(line)
