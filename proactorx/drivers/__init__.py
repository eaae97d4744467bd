"""Which driver runs, and why.

Nothing is probed at import, and nothing before the environment has been read: some sandboxes kill a process
for the first io_uring call it makes.  Probing happens once per process, when the first loop is made.
"""

from __future__ import annotations

import errno
import functools
import logging
import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING

from proactorx.drivers.info import BackendError, BackendInfo, Probe, logger, system

if TYPE_CHECKING:
    from proactorx.drivers.driver import Driver

__all__ = ["BackendError", "BackendInfo", "Choice", "Probe", "probe", "probe_all"]

#: The words that ``backend=`` and ``$PROACTORX_BACKEND`` know.
BACKENDS = ("auto", "io_uring", "epoll", "iocp", "select")
_DRIVERS = ("iocp", "select") if sys.platform == "win32" else ("io_uring", "epoll", "select")
#: The facilities of one system.
_SYSTEMS = {"io_uring": "Linux", "epoll": "Linux", "iocp": "Windows"}


def _is_of_this_system(name: str) -> bool:
    return sys.platform.startswith({"Linux": "linux", "Windows": "win32"}[_SYSTEMS[name]])


def _probe_select() -> Probe:
    return Probe("select", True, kernel=system()[0])


@functools.cache
def probe(name: str) -> Probe:
    """Whether driver `name` can run here.  Asked once per process.

    Raises:
        ValueError: there is no driver of that name.
    """
    if name not in BACKENDS or name == "auto":
        raise ValueError(f"unknown backend {name!r}: one of {', '.join(BACKENDS)}")
    if name == "select":
        return _probe_select()
    if not _is_of_this_system(name):
        why = f"{name} is a facility of {_SYSTEMS[name]}, and this is {sys.platform}"
        return Probe(name, False, why, suitable=False)
    found: Probe = import_module(f"proactorx.drivers.{name}.probe").probe()
    return found


def probe_all() -> list[Probe]:
    """What each driver can do here, in the order in which ``auto`` prefers them."""
    return [probe(name) for name in _DRIVERS]


def _make(name: str, shared: bool, restrict: bool) -> Driver:
    if name == "select":
        driver: Driver = import_module("proactorx.drivers.select.driver").SelectDriver()
    elif name == "epoll":
        driver = import_module("proactorx.drivers.epoll.driver").EpollDriver()
    elif name == "iocp":
        driver = import_module("proactorx.drivers.iocp.driver").IocpDriver()
    else:
        make = import_module("proactorx.drivers.io_uring.probe").make_driver
        driver = make(probe("io_uring"), shared=shared, restricted=restrict)
    return driver


def _restriction(name: str) -> str:
    if name == "io_uring":
        return "the ring refuses what the loop does not use"
    return f"nothing to restrict: {name} makes system calls, which seccomp sees"


def _info(name: str, reason: str, rejected: dict[str, str], restrict: bool) -> BackendInfo:
    found = probe(name)
    restriction = _restriction(name) if restrict else ""
    return BackendInfo(name, reason, found.tier, found.kernel, found.features, rejected, restriction)


class Choice:
    """The driver of one loop, and why it was chosen.

    The driver opens its facility when it is first needed.  Where the system then refuses (no memory for a
    ring), a driver that ``auto`` had chosen gives way to the next one; a named one raises.

    Args:
        backend: one of ``BACKENDS``; None: what ``$PROACTORX_BACKEND`` says, else ``auto``.
        shared: the driver is for a port that many threads wait on.
        restrict: a ring refuses what the driver does not use.

    Raises:
        ValueError: an unknown word.
        BackendError: the named driver cannot run here.
    """

    driver: Driver
    info: BackendInfo

    def __init__(self, backend: str | None = None, *, shared: bool = False, restrict: bool = False) -> None:
        word, source = backend, "the backend argument"
        if word is None:
            word, source = os.environ.get("PROACTORX_BACKEND") or "auto", "$PROACTORX_BACKEND"
        if word not in BACKENDS:
            raise ValueError(f"unknown backend {word!r} in {source}: one of {', '.join(BACKENDS)}")
        self._named = word != "auto"
        self._source = source
        self._shared = shared
        self._restrict = restrict
        self._rejected: dict[str, str] = {}
        if self._named:
            found = probe(word)
            if not found.available:
                raise BackendError(f"backend {word} (named by {source}) cannot run here: {found.reason}")
            self.driver = _make(word, shared, restrict)
            self.info = _info(word, f"named by {source}", {}, restrict)
        else:
            self._take_best()

    def _take_best(self) -> None:
        for name in _DRIVERS:
            if name in self._rejected:
                continue
            found = probe(name)
            if not found.available or not found.suitable:
                self._rejected[name] = found.reason
                continue
            self.driver = _make(name, self._shared, self._restrict)
            self.info = _info(name, self._why(name), dict(self._rejected), self._restrict)
            _say_once(self.info)
            return
        raise BackendError("no driver can run here: " + self._why(""))

    def _why(self, name: str) -> str:
        if self._rejected:
            return "; ".join(f"{other}: {why}" for other, why in self._rejected.items())
        tier = probe(name).tier
        return f"first choice of auto, tier {tier}" if tier else "the best one here"

    def fall_back(self, error: OSError) -> Driver:
        """The driver to use instead, now that this one could not be opened.

        Raises:
            OSError: `error` again: descriptors have run out, or there is no other driver.
            BackendError: the driver was named.
        """
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise error  # a real problem of the program's, which every driver would have
        why = explain(error) if self.info.name == "io_uring" else f"{error.strerror} when it was opened"
        if self._named:
            raise BackendError(
                f"backend {self.info.name} (named by {self._source}) cannot run here: {why}"
            ) from error
        self._rejected[self.info.name] = why
        self._take_best()
        return self.driver


def explain(error: OSError) -> str:
    """The likely cause of a ring that could not be made, in words."""
    return str(import_module("proactorx.drivers.io_uring.probe").explain(error.errno))


_said: set[str] = set()


def _say_once(info: BackendInfo) -> None:
    """Log what ``auto`` took: at INFO if this system has a better driver and refused it, else at DEBUG.

    Nobody has to act where the first choice runs, and programs test that nothing is logged at INFO.
    """
    line = f"proactorx: backend={info.name} ({info.reason})"
    if line not in _said:
        _said.add(line)
        logger.log(logging.INFO if any(map(_is_of_this_system, info.rejected)) else logging.DEBUG, line)
