"""Subprocesses: ``subprocess_exec`` and ``subprocess_shell``.

Both are ``BaseEventLoop``'s, and so is the transport; what is here is how a child is started and how its end
is heard of: by an op of io_uring's; by a poll on its pidfd, pidfd_open(2); or by a thread that waits for it
where the kernel has neither.  No signal handler is taken and no child watcher of asyncio's is asked, so it
works in any thread, on every Python alike.

Only the loop's thread reaps.  So while the transport says that the child runs, its pid is the child's, and a
signal cannot reach another process.
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

# What stock asyncio reports for a child whose status somebody else has taken.
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
        """Send a signal to the child; nothing is sent to one whose end is known.

        Raises:
            ProcessLookupError: the transport has done with the child.
        """
        self._check_proc()
        if self._returncode is None and self._proc is not None and self._proc.returncode is None:
            try:
                os.kill(self._proc.pid, signal)
            except ProcessLookupError:
                return  # reaped by somebody else

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signals.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signals.SIGKILL)


class Child:
    """One child, until its end has been heard of."""

    def __init__(self, loop: Processes, transport: SubprocessTransport) -> None:
        self.loop = loop
        self.transport = transport
        self.pid: int = transport.get_pid()  # type: ignore[assignment]  # it has one by now
        self.pidfd: int = -1
        self.posted: bool = False  # its thread has heard of its end
        self.native: bool = False  # an op waits for it

    def watch(self) -> None:
        """Hear of its end, by whatever means there are."""
        if self.loop._has_wait_child:
            try:
                self.loop._port.start(Overlapped(WAIT_CHILD, self.pid, on_done=self._ended_natively))
            except NotImplementedError:
                self.loop._has_wait_child = False
            else:
                self.native = True
                return
        self._watch_by_pidfd()

    def _ended_natively(self, op: Overlapped) -> None:
        if self.loop.is_closed():
            return  # see abandon()
        self.native = False
        if op.error not in (0, errno.ECHILD):
            self.loop._has_wait_child = op.error != errno.EINVAL  # IORING_OP_WAITID came with Linux 6.7
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
            # No such call (macOS, a kernel before 5.3), forbidden by seccomp, or no descriptor is free.
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
        """Its exit code; None if somebody else has it.  By pidfd: the pid may be another child's by then."""
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
            raise BlockingIOError  # WNOHANG, and it runs
        try:
            return os.waitstatus_to_exitcode(status)
        except ValueError:
            return status  # as stock asyncio has it

    def _report(self, status: int | None) -> None:
        self.loop._children.discard(self)
        if status is None and self.transport._proc is not None:
            status = self.transport._proc.returncode  # its Popen was asked, by close() for one
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
        """Wait for its end; how to reap it then."""
        if not hasattr(os, "waitid"):
            status = self._reap_by_pid()
            return lambda: status
        with contextlib.suppress(ChildProcessError):  # somebody else has taken it
            os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        return self._reap_by_pid

    def _wait_in_thread(self) -> None:
        reap = self._wait()
        self.posted = True
        try:
            self.loop.call_soon_threadsafe(lambda: self._report(reap()))
        except RuntimeError:
            # The loop is closed: nobody else will take the child.
            reap()
            logger.warning("Loop %r that handles pid %r is closed", self.loop, self.pid)

    # ------------------------------------------------------------------------------------------------ the end

    def close(self) -> None:
        """Close the pidfd; the child is left alone."""
        if self.pidfd >= 0:
            fd, self.pidfd = self.pidfd, -1
            self.loop._port.forget(fd)
            os.close(fd)

    def abandon(self) -> None:
        """The loop is closed.  A child that has ended is reaped, for nobody else will; one that runs goes on.

        Its thread, where it has one and has not been heard of, finds the loop closed and reaps by itself.
        """
        status = None
        with contextlib.suppress(BlockingIOError):
            if self.pidfd >= 0:
                status = self._reap_by_pidfd()
            elif self.posted or self.native:
                status = self._reap_by_pid(os.WNOHANG)
        self.close()
        if status is not None and self.transport._proc is not None:
            # So that no later close() sends a signal to whoever has the pid then.
            self.transport._returncode = self.transport._proc.returncode = status


class Processes(asyncio.BaseEventLoop):
    """The subprocess family of ``AbstractEventLoop``."""

    _port: LoopPort
    _registry: Registry
    _has_wait_child = True  # until the driver, or the kernel, says that it has not

    def _init_processes(self) -> None:
        self._children: set[Child] = set()

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
        self._registry.send_all()  # the child may have our sockets
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
        """After the port's close, which has ended the polls: a descriptor outlives its ops."""
        forked = self._port.driver.forked
        for child in self._children:
            if forked:
                child.close()  # they are the parent's children
            else:
                child.abandon()
        self._children.clear()
