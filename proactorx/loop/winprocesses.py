"""Subprocesses on Windows: ``subprocess_exec`` and ``subprocess_shell``.

The pipes are overlapped (``asyncio.windows_utils.Popen``). A wait on the process handle posts a packet when
the child exits. Both need the iocp driver.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from proactorx.loop.child_transport import ChildTransport
from proactorx.ops.constants import POLL, POLLIN
from proactorx.ops.op import Overlapped
from proactorx.port.loop_port import LoopPort
from proactorx.transports.registry import Registry

if sys.platform == "win32":
    from asyncio import windows_utils
else:  # for type checkers
    windows_utils: Any = None


class SubprocessTransport(ChildTransport):
    """asyncio's own subprocess transport, with overlapped pipes."""

    _proc: Any

    def _start(
        self, args: Any, shell: bool, stdin: Any, stdout: Any, stderr: Any, bufsize: int, **kwargs: Any
    ) -> None:
        self._proc = windows_utils.Popen(
            args, shell=shell, stdin=stdin, stdout=stdout, stderr=stderr, bufsize=bufsize, **kwargs
        )

    def send_signal(self, signal: int) -> None:
        """Send a signal: SIGTERM terminates the child, CTRL_C_EVENT and CTRL_BREAK_EVENT go to its console
        group.

        Raises:
            ProcessLookupError: the transport is closed and no longer has the child.
            ValueError: Windows has no such signal.
        """
        self._check_proc()
        if self._returncode is None and self._proc is not None:
            self._proc.send_signal(signal)

    def terminate(self) -> None:
        """End the child with TerminateProcess."""
        self._check_proc()
        if self._returncode is None and self._proc is not None:
            self._proc.terminate()

    def kill(self) -> None:
        """Call ``terminate``: Windows has no stronger way."""
        self.terminate()


class Processes(asyncio.BaseEventLoop):
    """The subprocess family of ``AbstractEventLoop``."""

    _port: LoopPort
    _registry: Registry
    _need_iocp: Any

    def _init_processes(self) -> None:
        self._children: dict[SubprocessTransport, Overlapped] = {}

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
        self._need_iocp("subprocesses")
        self._registry.send_all()  # the child may inherit our sockets
        waiter = self.create_future()
        transport = SubprocessTransport(
            self, protocol, args, shell, stdin, stdout, stderr, bufsize, waiter=waiter, extra=extra, **kwargs
        )
        self._watch_child(transport)
        try:
            await waiter
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException:
            transport.close()
            await transport._wait()
            raise
        return transport

    def _watch_child(self, transport: SubprocessTransport) -> None:
        process: Any = transport._proc

        def ended(_: Overlapped) -> None:
            self._children.pop(transport, None)
            status = process.poll()
            if status is not None and not self.is_closed():
                transport._process_exited(status)

        op = Overlapped(POLL, process._handle, events=POLLIN, on_done=ended)
        self._children[transport] = op
        self._port.start(op)

    def _close_processes(self) -> None:
        """Forget the children, after the port's close has ended the waits. Running children continue."""
        self._children.clear()
