"""Signals: a wake-up descriptor, so that a signal ends a wait whichever thread it was delivered to.

Python's C-level handler writes the signal's number to the descriptor of ``signal.set_wakeup_fd``; the Python-level
handler then runs in the main thread, where the loop is awake.  Only the main thread's loop does this.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import signal
import socket
import threading
from collections.abc import Callable
from typing import Any

from proactorx.loop.core import Handle
from proactorx.port.op import Overlapped
from proactorx.port.constants import POLL, POLLIN
from proactorx.port.port import Port


def _ignore(*_: object) -> None:
    """A Python-level handler, without which the C-level one does not write to the wake-up descriptor."""


class Signals(asyncio.BaseEventLoop):
    """The signal family of ``AbstractEventLoop``."""

    _port: Port

    def _init_signals(self) -> None:
        self._signal_handlers: dict[int, Handle] = {}
        self._signal_pair: tuple[socket.socket, socket.socket] | None = None
        self._signal_op: Overlapped | None = None
        self._other_wakeup_fd = -1

    # ------------------------------------------------------------------------------------------ the wake-up descriptor

    def _before_sleep(self) -> None:
        """The loop is about to sleep for the first time in this run: in the main thread, signals are to wake it."""
        if threading.current_thread() is threading.main_thread():
            old = self._open_signal_pair()
            if old != -1:
                self._other_wakeup_fd = old

    def _release_signals(self) -> None:
        """The run is over: whoever had the wake-up descriptor before gets it back."""
        if self._signal_pair is None or threading.current_thread() is not threading.main_thread():
            return
        other, self._other_wakeup_fd = self._other_wakeup_fd, -1
        if other != -1 or not self._signal_handlers:
            signal.set_wakeup_fd(other, warn_on_full_buffer=False)

    def _open_signal_pair(self) -> int:
        """Have signals written to us; the descriptor that was set before, if it is not ours."""
        if self._signal_pair is None:
            reader, writer = socket.socketpair()
            reader.setblocking(False)
            writer.setblocking(False)
            self._signal_pair = (reader, writer)
        if self._signal_op is None:
            self._watch_signals()
        ours = self._signal_pair[1].fileno()
        old = signal.set_wakeup_fd(ours, warn_on_full_buffer=False)
        return -1 if old == ours else old

    def _watch_signals(self) -> None:
        if self._signal_pair is None:
            return
        op = Overlapped(POLL, self._signal_pair[0].fileno(), events=POLLIN, owner=self._signals_came)
        self._signal_op = self._port.start(op)

    def _signals_came(self, op: Overlapped) -> None:
        self._signal_op = None
        if op.error or self._signal_pair is None or self.is_closed():
            return
        try:
            numbers = self._signal_pair[0].recv(4096)
        except (BlockingIOError, InterruptedError):
            numbers = b""
        self._watch_signals()
        for number in numbers:
            self._handle_signal(number)

    def _handle_signal(self, number: int) -> None:
        handle = self._signal_handlers.get(number)
        if handle is None:
            return
        if handle._cancelled:
            self.remove_signal_handler(number)
        else:
            self._add_callback_signalsafe(handle)

    def _close_signals(self) -> None:
        for number in list(self._signal_handlers):
            self.remove_signal_handler(number)
        pair, self._signal_pair = self._signal_pair, None
        if pair is None:
            return
        if threading.current_thread() is threading.main_thread():
            current = signal.set_wakeup_fd(-1)
            if current not in (-1, pair[1].fileno()):
                signal.set_wakeup_fd(current, warn_on_full_buffer=False)
        if self._signal_op is not None and not self._port.driver.forked:
            # Closed by the port's own close: the descriptor must outlive the op.
            self._signal_op, op = None, self._signal_op
            self._port.stop(op)
            while not op.done:
                self._port.run(1.0)
            self._port.forget(pair[0].fileno())
        for sock in pair:
            sock.close()

    # ------------------------------------------------------------------------------------------------------ handlers

    def add_signal_handler(self, sig: int, callback: Callable[..., Any], *args: Any) -> None:
        """Call `callback` in the loop when signal `sig` comes; only in the main thread.

        Raises:
            TypeError: `callback` is a coroutine, or `sig` is not an int.
            ValueError: `sig` is not a signal, or this is not the main thread.
            RuntimeError: the signal cannot be caught.
        """
        if asyncio.iscoroutine(callback) or asyncio.iscoroutinefunction(callback):
            raise TypeError("coroutines cannot be used with add_signal_handler()")
        self._check_signal(sig)
        self._check_closed()
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("set_wakeup_fd only works in main thread of the main interpreter")
        self._open_signal_pair()
        self._signal_handlers[sig] = self._make_handle(callback, args)
        try:
            signal.signal(sig, _ignore)
            signal.siginterrupt(sig, False)
        except OSError as exc:
            del self._signal_handlers[sig]
            if not self._signal_handlers and not self.is_running():
                with contextlib.suppress(ValueError, OSError):
                    signal.set_wakeup_fd(-1)
            if exc.errno == errno.EINVAL:
                raise RuntimeError(f"sig {sig} cannot be caught") from None
            raise

    def remove_signal_handler(self, sig: int) -> bool:
        """Undo ``add_signal_handler``; whether there was a handler."""
        self._check_signal(sig)
        try:
            del self._signal_handlers[sig]
        except KeyError:
            return False
        default = signal.default_int_handler if sig == signal.SIGINT else signal.SIG_DFL
        try:
            signal.signal(sig, default)
        except OSError as exc:
            if exc.errno == errno.EINVAL:
                raise RuntimeError(f"sig {sig} cannot be caught") from None
            raise
        if not self._signal_handlers and not self.is_running():
            with contextlib.suppress(ValueError, OSError):
                signal.set_wakeup_fd(-1)
        return True

    def _check_signal(self, sig: int) -> None:
        if not isinstance(sig, int):
            raise TypeError(f"sig must be an int, not {sig!r}")
        if sig not in signal.valid_signals():
            raise ValueError(f"invalid signal number {sig}")
