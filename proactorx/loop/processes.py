"""Subprocesses: ``subprocess_exec`` and ``subprocess_shell``.

The methods and the transport are ``BaseEventLoop``'s. This module starts the child and learns of its exit: by
an io_uring operation, by a poll on its pidfd (pidfd_open(2)), or, where the kernel has neither, by a thread
that waits. It needs no signal handler and none of asyncio's child watchers, so it works in any thread and
alike on every Python.

Only the loop's thread reaps. So while the transport says that the child runs, the pid belongs to the child,
and a signal cannot reach another process.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import logging
import os
import signal as signals
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

from proactorx.loop.child_transport import ChildTransport
from proactorx.ops.constants import POLL, POLLIN, WAIT_CHILD
from proactorx.ops.op import Overlapped
from proactorx.port.loop_port import LoopPort
from proactorx.transports.registry import Registry

assert sys.platform != "win32"

logger: logging.Logger = logging.getLogger("asyncio")

# The status that stock asyncio reports when other code has reaped the child.
UNKNOWN = 255

_thread_numbers = itertools.count()


class SubprocessTransport(ChildTransport):
    """asyncio's own subprocess transport, with its child started by ``subprocess.Popen``."""

    def _start(
        self, args: Any, shell: bool, stdin: Any, stdout: Any, stderr: Any, bufsize: int, **kwargs: Any
    ) -> None:
        self._proc = subprocess.Popen(
            args, shell=shell, stdin=stdin, stdout=stdout, stderr=stderr, bufsize=bufsize, **kwargs
        )

    def send_signal(self, signal: int) -> None:
        """Send a signal to the child. A child that is known to have exited gets none.

        Raises:
            ProcessLookupError: the transport is closed and no longer has the child.
        """
        self._check_proc()
        if self._returncode is None and self._proc is not None and self._proc.returncode is None:
            try:
                os.kill(self._proc.pid, signal)
            except ProcessLookupError:
                return  # reaped by other code

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signals.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signals.SIGKILL)


class Child:
    """One child, until its exit is reported."""

    def __init__(self, loop: Processes, transport: SubprocessTransport) -> None:
        self.loop = loop
        self.transport = transport
        self.pid: int = transport.get_pid()  # type: ignore[assignment]  # it has one by now
        self.pidfd: int = -1
        self.posted: bool = False  # its thread has seen it exit
        self.native: bool = False  # an op waits for it

    def watch(self) -> None:
        """Wait for its exit, by the best means that there is."""
        if self.loop._has_wait_child and not self.loop._wait_child_refused:
            try:
                self.loop._port.start(Overlapped(WAIT_CHILD, self.pid, on_done=self._ended_natively))
            except NotImplementedError:
                self.loop._wait_child_refused = True
            else:
                self.native = True
                return
        self._watch_by_pidfd()

    def _ended_natively(self, op: Overlapped) -> None:
        if self.loop.is_closed():
            return  # see abandon()
        self.native = False
        if op.error not in (0, errno.ECHILD):
            self.loop._wait_child_refused = op.error == errno.EINVAL  # IORING_OP_WAITID: Linux 6.7
            self._watch_by_pidfd()
            return
        try:
            status = self._reap_by_pid(os.WNOHANG)
        except BlockingIOError:
            self.watch()
            return
        self._report(status)

    def _watch_by_pidfd(self) -> None:
        try:
            self.pidfd = os.pidfd_open(self.pid)
        except (AttributeError, OSError):
            # There is no such call (macOS, Linux before 5.3), seccomp forbids it, or no descriptor is free.
            self._watch_by_thread()
            return
        try:
            self._poll()
        except BaseException:
            self.close()
            raise

    def _poll(self) -> None:
        self.loop._port.start(Overlapped(POLL, self.pidfd, events=POLLIN, on_done=self._ended))

    def _ended(self, op: Overlapped) -> None:
        if self.loop.is_closed():
            return  # see abandon()
        if op.error:
            self.close()
            self._watch_by_thread()
            return
        try:
            status = self._reap_by_pidfd()
        except BlockingIOError:
            self._poll()
            return
        self.close()
        self._report(status)

    def _reap_by_pidfd(self) -> int | None:
        """Return its exit code, or None if other code has reaped it.

        Reap by pidfd: the pid may have been given to another child.
        """
        try:
            found = os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED | os.WNOHANG)
        except ChildProcessError:
            return None
        except OSError as exc:
            if exc.errno != errno.EINVAL:  # P_PIDFD came with Linux 5.4
                raise
            return self._reap_by_pid()
        if found is None:
            raise BlockingIOError
        return found.si_status if found.si_code == os.CLD_EXITED else -found.si_status

    def _reap_by_pid(self, options: int = 0) -> int | None:
        try:
            pid, status = os.waitpid(self.pid, options)
        except ChildProcessError:
            return None
        if pid == 0:
            raise BlockingIOError  # it still runs
        try:
            return os.waitstatus_to_exitcode(status)
        except ValueError:
            return status  # as stock asyncio does

    def _report(self, status: int | None) -> None:
        self.loop._children.discard(self)
        if status is None and self.transport._proc is not None:
            status = self.transport._proc.returncode  # its Popen has reaped it, in close() for example
        if status is None:
            status = UNKNOWN
            logger.warning(
                "child process pid %d exit status already read:  will report returncode 255", self.pid
            )
        elif self.loop.get_debug():
            logger.debug("process %s exited with returncode %s", self.pid, status)
        self.transport._process_exited(status)

    # ---------------------------------------------------------------------------------------- without a pidfd

    def _watch_by_thread(self) -> None:
        name = f"proactorx-waitpid-{next(_thread_numbers)}"
        threading.Thread(target=self._wait_in_thread, name=name, daemon=True).start()

    def _wait(self) -> Callable[[], int | None]:
        """Wait for its exit, and return the function that reaps it."""
        if not hasattr(os, "waitid"):
            status = self._reap_by_pid()
            return lambda: status
        with contextlib.suppress(ChildProcessError):  # other code has reaped it
            os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        return self._reap_by_pid

    def _wait_in_thread(self) -> None:
        reap = self._wait()
        self.posted = True
        try:
            self.loop.call_soon_threadsafe(lambda: self._report(reap()))
        except RuntimeError:
            # The loop is closed: no other code reaps the child.
            reap()
            logger.warning("Loop %r that handles pid %r is closed", self.loop, self.pid)

    # ------------------------------------------------------------------------------------------------ the end

    def close(self) -> None:
        """Close the pidfd. The child is not touched."""
        if self.pidfd >= 0:
            fd, self.pidfd = self.pidfd, -1
            self.loop._port.forget(fd)
            os.close(fd)

    def abandon(self) -> None:
        """Reap the child of a closed loop if it has exited: no other code does. A running child continues.

        A thread that still waits for the child finds the loop closed and reaps the child itself.
        """
        status = None
        with contextlib.suppress(BlockingIOError):
            if self.pidfd >= 0:
                status = self._reap_by_pidfd()
            elif self.posted or self.native:
                status = self._reap_by_pid(os.WNOHANG)
        self.close()
        if status is not None and self.transport._proc is not None:
            # Otherwise a later close() would send a signal to the next process with this pid.
            self.transport._returncode = self.transport._proc.returncode = status


class Processes(asyncio.BaseEventLoop):
    """The subprocess family of ``AbstractEventLoop``."""

    _port: LoopPort
    _registry: Registry
    _has_wait_child = True
    _wait_child_refused: bool  # by the driver or the kernel: it is not asked again

    def _init_processes(self) -> None:
        self._children: set[Child] = set()
        self._wait_child_refused = False

    async def _make_subprocess_transport(
        self,
        protocol: asyncio.SubprocessProtocol,
        args: Any,
        shell: bool,
        stdin: Any,
        stdout: Any,
        stderr: Any,
        bufsize: int,
        extra: Any = None,
        **kwargs: Any,
    ) -> SubprocessTransport:
        self._registry.send_all()  # the child may inherit our sockets
        waiter = self.create_future()
        transport = SubprocessTransport(
            self,
            protocol,
            args,
            shell,
            stdin,
            stdout,
            stderr,
            bufsize,
            waiter=waiter,
            extra=extra,
            **kwargs,
        )
        child = Child(self, transport)
        self._children.add(child)
        try:
            child.watch()
        except BaseException:
            self._children.discard(child)
            transport.close()
            if transport._proc is not None:
                transport._process_exited(transport._proc.wait())  # at once: it was killed
            raise
        try:
            await waiter
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException:
            transport.close()
            await transport._wait()
            raise
        return transport

    def _close_processes(self) -> None:
        """Abandon the children, after the port's close has ended the polls.

        A descriptor is closed only after its ops have ended.
        """
        forked = self._port.driver.forked
        for child in self._children:
            if forked:
                child.close()  # the parent reaps its children
            else:
                child.abandon()
        self._children.clear()
