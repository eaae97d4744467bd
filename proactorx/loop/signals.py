"""Signals: a wake-up descriptor, so that a signal ends a wait whichever thread it was delivered to.

Python's C-level handler writes the signal's number to the descriptor of ``signal.set_wakeup_fd``; the
Python-level handler then runs in the main thread, where the loop is awake.
Only the main thread's loop does this.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import inspect
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from typing import Any, TypeVarTuple

from proactorx.loop.handles import Handle
from proactorx.ops.constants import POLL, POLLIN
from proactorx.ops.op import Overlapped
from proactorx.port.loop_port import LoopPort

_Ts = TypeVarTuple("_Ts")

# The writing ends of all loops of this process.
_wakeup_fds: set[int] = set()


def _after_fork_in_child() -> None:
    """A signal of the child's must not wake the parent. asyncio sees to that from Python 3.12 on,
    and not for 3.11.
    """
    if not _wakeup_fds:
        return
    current = signal.set_wakeup_fd(-1)
    if current not in _wakeup_fds and current != -1:
        with contextlib.suppress(ValueError, OSError):  # not open any more
            signal.set_wakeup_fd(current, warn_on_full_buffer=False)
    _wakeup_fds.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


def _ignore(*_: object) -> None:
    """A Python-level handler, without which the C-level one does not write to the wake-up descriptor."""


class Signals(asyncio.BaseEventLoop):
    """The signal family of ``AbstractEventLoop``."""

    _port: LoopPort
    _check_closed: Callable[[], None]
    # LoopCore's.
    _make_handle: Callable[[Callable[..., object], tuple[Any, ...]], Handle]
    _add_callback: Callable[[Handle], None]

    def _init_signals(self) -> None:
        self._signal_handlers: dict[int, Handle] = {}
        self._signal_pair: tuple[socket.socket, socket.socket] | None = None
        self._signal_op: Overlapped | None = None
        # Whether the wake-up descriptor is ours now, and whose it was before (-1: nobody's).
        self._has_wakeup_fd = False
        self._other_wakeup_fd = -1

    # --------------------------------------------------------------------------------- the wake-up descriptor

    def _before_sleep(self) -> bool:
        """The loop is about to sleep for the first time in this run.

        In the main thread, signals are to wake it.  False: there are no descriptors for that now, and it is
        to be asked again before the next sleep.
        """
        if threading.current_thread() is not threading.main_thread():
            return True
        try:
            self._take_wakeup_fd()
        except OSError as exc:
            if exc.errno not in (errno.EMFILE, errno.ENFILE):
                raise
            return False
        if self._other_wakeup_fd != -1 and not self._signal_handlers:
            # the program has one of its own, which gets the bytes as on stock asyncio
            self._give_wakeup_fd_back()
        return True

    def _release_signals(self) -> None:
        """The run is over."""
        if not self._signal_handlers:
            self._give_wakeup_fd_back()

    def _take_wakeup_fd(self) -> None:
        if self._signal_pair is None:
            reader, writer = socket.socketpair()
            reader.setblocking(False)
            writer.setblocking(False)
            self._signal_pair = (reader, writer)
            _wakeup_fds.add(writer.fileno())
        if self._signal_op is None:
            self._watch_signals()
        ours = self._signal_pair[1].fileno()
        old = signal.set_wakeup_fd(ours, warn_on_full_buffer=False)
        if old != ours:
            self._other_wakeup_fd = old
        self._has_wakeup_fd = True

    def _give_wakeup_fd_back(self) -> None:
        if not self._has_wakeup_fd or threading.current_thread() is not threading.main_thread():
            return
        self._has_wakeup_fd = False
        other, self._other_wakeup_fd = self._other_wakeup_fd, -1
        if self._port.driver.forked:
            other = -1  # the parent's, too
        assert self._signal_pair is not None
        try:
            current = signal.set_wakeup_fd(other, warn_on_full_buffer=False)
        except (ValueError, OSError):
            current = signal.set_wakeup_fd(-1)  # the other one was closed meanwhile
        if current not in (-1, self._signal_pair[1].fileno()):
            signal.set_wakeup_fd(current, warn_on_full_buffer=False)  # somebody else has taken it since

    def _watch_signals(self) -> None:
        if self._signal_pair is None:
            return
        op = Overlapped(POLL, self._signal_pair[0].fileno(), events=POLLIN, on_done=self._signals_came)
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
            self._add_callback(handle)

    def _close_signals(self) -> None:
        """After the port's close, which has ended the op on the pair: a descriptor outlives its ops."""
        for number in list(self._signal_handlers):
            self.remove_signal_handler(number)
        self._give_wakeup_fd_back()
        pair, self._signal_pair = self._signal_pair, None
        if pair is None:
            return
        _wakeup_fds.discard(pair[1].fileno())
        for sock in pair:
            sock.close()

    # ----------------------------------------------------------------------------------------------- handlers

    def add_signal_handler(self, sig: int, callback: Callable[[*_Ts], object], *args: *_Ts) -> None:
        """Call `callback` in the loop whenever signal `sig` arrives, in place of an earlier callback.

        Args:
            sig: the signal's number.
            callback: what to call; not a coroutine.
            *args: its arguments.

        Raises:
            TypeError: `callback` is a coroutine, or `sig` is not an int.
            ValueError: `sig` is not a signal's number, or this is not the main thread.
            RuntimeError: the signal cannot be caught (SIGKILL, SIGSTOP: signal(7)), or the loop is closed.
        """
        if asyncio.iscoroutine(callback) or inspect.iscoroutinefunction(callback):
            raise TypeError("coroutines cannot be used with add_signal_handler()")
        self._check_signal(sig)
        self._check_closed()
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("set_wakeup_fd only works in main thread of the main interpreter")
        self._take_wakeup_fd()
        self._signal_handlers[sig] = self._make_handle(callback, args)
        try:
            signal.signal(sig, _ignore)
            if sys.platform != "win32":
                signal.siginterrupt(sig, False)
        except OSError as exc:
            del self._signal_handlers[sig]
            if not self._signal_handlers and not self.is_running():
                self._give_wakeup_fd_back()
            if exc.errno == errno.EINVAL:
                raise RuntimeError(f"sig {sig} cannot be caught") from None
            raise

    def remove_signal_handler(self, sig: int) -> bool:
        """Remove the callback of `sig` and restore the signal's default action.

        Returns:
            Whether there was a callback.

        Raises:
            TypeError: `sig` is not an int.
            ValueError: `sig` is not a signal's number.
        """
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
            self._give_wakeup_fd_back()
        return True

    def _check_signal(self, sig: int) -> None:
        if not isinstance(sig, int):
            raise TypeError(f"sig must be an int, not {sig!r}")
        if sig not in signal.valid_signals():
            raise ValueError(f"invalid signal number {sig}")
