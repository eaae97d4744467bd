"""``proactorx.EventLoop``: the compiled loop core with asyncio's own machinery on top."""

from __future__ import annotations

import asyncio
import dataclasses
import sys
import threading
import warnings
from asyncio import events
from collections.abc import AsyncGenerator, Callable
from typing import TYPE_CHECKING, Any

from proactorx import drivers
from proactorx.loop.call_queue import call_fast
from proactorx.loop.connections import Connections
from proactorx.loop.core import FORKED, LoopCore
from proactorx.loop.datagrams import Datagrams
from proactorx.loop.inspection import Inspection
from proactorx.loop.lookups import Lookups
from proactorx.loop.readers import Readers
from proactorx.loop.sendfile import Sendfile
from proactorx.loop.signals import Signals
from proactorx.loop.sockets import Sockets
from proactorx.loop.timers import time_fast
from proactorx.port.loop_port import LoopPort
from proactorx.transports import streams, tls_direct
from proactorx.transports.udp import udp_features

if sys.platform == "win32":
    from proactorx.loop.winpipes import Pipes
    from proactorx.loop.winprocesses import Processes
else:
    from proactorx.loop.pipes import Pipes
    from proactorx.loop.processes import Processes

if TYPE_CHECKING:
    from proactorx.drivers.driver import Driver


class _NestPatched:
    """The attribute that nest_asyncio asks a loop for first, before it replaces methods of its class.

    It would give the class methods that need a selector, and no loop of the class would run any more.  It is
    a descriptor because a ``__getattr__`` would add 600 instructions to each look at any attribute of a loop.
    """

    def __get__(self, loop: object, kind: type) -> Any:
        if sys._getframe(1).f_code.co_name == "_patch_loop":
            raise ValueError(
                f"Can't patch loop of type {kind}: it has no selector, and its turn cannot be "
                "replaced. For nested runs use asyncio's own loop, or a loop in another thread"
            )
        message = f"{kind.__name__!r} object has no attribute '_nest_patched'"
        raise AttributeError(message, name="_nest_patched", obj=loop)


class EventLoop(
    Connections,
    Sendfile,
    Sockets,
    Datagrams,
    Pipes,
    Processes,
    Lookups,
    Readers,
    Signals,
    Inspection,
    LoopCore,
    asyncio.BaseEventLoop,
):
    """An asyncio event loop whose I/O goes through a completion port.

    It keeps the contract of ``asyncio.AbstractEventLoop`` as stock asyncio implements it (Python
    documentation, "Event Loop"); docs/limits lists what differs.

    Args:
        backend: ``auto``, ``io_uring``, ``epoll``, ``select`` or, on Windows, ``iocp``; default:
            ``$PROACTORX_BACKEND``, or ``auto``.
        spin: seconds, 0 to 1, that the loop may poll for I/O before it sleeps.  It stops doing so while that
            finds nothing.  Spinning lowers latency where a core is free for the loop, and costs CPU time.
            0: never.
        restrict: on io_uring, make a ring that refuses every operation and registration that the loop does
            not use, so that code which gets hold of the ring can do no more than the loop does. Other
            backends have nothing to restrict; ``backend_info().restriction`` says so.

    Raises:
        ValueError: `backend` is an unknown word, or `spin` is not between 0 and 1.
        BackendError: the named backend cannot run here; the message gives the reason.
    """

    # A place for each attribute of a loop, so that none has a dictionary before a user sets an attribute of
    # their own: Python then finds a method such as `call_soon` for 200 instructions less, tasks and futures,
    # which are C, for 90.
    __slots__ = (
        *("_choice", "_spin_ns", "_shared", "_proactorx_files"),
        *("_listeners", "_lent", "_unix_server_sockets", "_socket_table", "_watches"),
        *("_pipe_memory", "_pipe_servers", "_children", "_wait_child_refused"),
        *("_signal_handlers", "_signal_pair", "_signal_op", "_has_wakeup_fd", "_other_wakeup_fd"),
        *("_number", "_thread_state", "_native_id"),
        # BaseEventLoop's.
        *("_timer_cancelled_count", "_ready", "_scheduled", "_internal_fds", "_clock_resolution"),
        *("_exception_handler", "_current_handle", "_default_executor", "_executor_shutdown_called"),
        *("_coroutine_origin_tracking_enabled", "_coroutine_origin_tracking_saved_depth"),
        *("_asyncgens", "_asyncgens_shutdown_called", "_old_agen_hooks"),
    )
    # What is made at its first use, by whichever thread comes first.
    _shared: dict[str, Any]

    # BaseEventLoop's own, which typeshed leaves out.
    _check_closed: Callable[[], None]
    _check_running: Callable[[], None]
    _set_coroutine_origin_tracking: Callable[[bool], None]
    _asyncgen_firstiter_hook: Callable[[AsyncGenerator[Any, Any]], None]
    _asyncgen_finalizer_hook: Callable[[AsyncGenerator[Any, Any]], None]

    def __init__(self, backend: str | None = None, *, spin: float = 0, restrict: bool = False) -> None:
        if not 0 <= spin <= 1:
            raise ValueError(f"spin must be between 0 and 1 second, not {spin!r}")
        self._shared = {}
        choice = drivers.Choice(backend, restrict=restrict)
        self._set_port(LoopPort(choice.driver, self._fall_back))
        self._port.report = self.call_exception_handler
        self._choice = choice
        self._spin_ns = choice.driver.spin_ns = round(spin * 1e9)
        self._init_connections()
        self._init_sockets()
        self._init_pipes()
        self._init_processes()
        self._init_readers()
        self._init_signals()
        # last: from here on it is not closed, and close() needs all of that
        asyncio.BaseEventLoop.__init__(self)
        self._init_inspection()

    def backend_info(self) -> drivers.BackendInfo:
        """Return the backend that runs, and why it was chosen: a ``BackendInfo``."""
        return dataclasses.replace(
            self._choice.info, datagrams=udp_features(), tls=tls_direct.how(), streams=streams.MODE
        )

    def credentials_changed(self) -> None:
        """Have the operations in flight act with the credentials that this thread has now.

        Call it after ``os.setuid`` or its like, in the loop's thread or while the loop does not run. io_uring
        executes an operation with the credentials of its submission: the ring is replaced by a new one, to
        which polls and waits for children are submitted again; file operations are waited for, 5 seconds at
        most. On other backends nothing keeps credentials, and nothing happens.

        Raises:
            RuntimeError: the loop is closed, or runs in another thread.
            OSError: no new ring could be made (only privileged processes may, or no descriptor is left); the
                old one goes on.
        """
        self._check_closed()
        if self._thread_id not in (None, threading.get_ident()):
            raise RuntimeError("credentials_changed() must be called in the thread that runs the loop")
        self._port.credentials_changed()

    def _fall_back(self, error: OSError) -> Driver:
        driver = self._choice.fall_back(error)
        driver.spin_ns = self._spin_ns
        return driver

    _nest_patched = _NestPatched()

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} backend={self._choice.info.name} running={self.is_running()} "
            f"closed={self.is_closed()} debug={self.get_debug()}>"
        )

    # ------------------------------------------------------------------------------------------------ running

    def run_forever(self) -> None:
        """Run until ``stop`` is called.

        Raises:
            RuntimeError: the loop is closed or already running, another loop runs in this thread, or the
                loop belongs to the parent of this forked process.
        """
        self._check_closed()
        self._check_running()
        if self._port.driver.forked:
            raise RuntimeError(FORKED)
        self._set_coroutine_origin_tracking(self._debug)
        old_hooks = sys.get_asyncgen_hooks()
        try:
            self._thread_id = threading.get_ident()
            sys.set_asyncgen_hooks(
                firstiter=self._asyncgen_firstiter_hook, finalizer=self._asyncgen_finalizer_hook
            )
            events._set_running_loop(self)
            self._begin_inspection()
            self._run_until_stopped()
        finally:
            self._end_inspection()
            self._release_signals()
            self._stopping = False
            self._thread_id = None
            events._set_running_loop(None)
            self._set_coroutine_origin_tracking(False)
            sys.set_asyncgen_hooks(*old_hooks)

    def close(self) -> None:
        """Close the loop: cancel the operations in flight, wait for them to end, and free all resources.

        The wait takes at most 5 seconds; then the memory of what has not ended is leaked, and an error is
        logged.  A second call has no effect.

        Raises:
            RuntimeError: the loop is running.
        """
        if self.is_running():
            raise RuntimeError("Cannot close a running event loop")
        if self.is_closed():
            return
        self.watch(None)
        self._port.attach_thread()  # it may have run in another one
        self._registry.send_all()  # what a run left that was ended by an exception out of this
        asyncio.BaseEventLoop.close(self)
        self._close_listeners()
        self._watches.clear()
        self._registry.drop_all()
        self._port.close()
        self._close_sockets()
        self._port.detach_thread()
        self._close_processes()
        self._close_threads()
        self._close_signals()
        self._drop_handles()
        self._proactorx_files = None  # it is from `files/access`, and refers to the loop

    def __del__(self, _warn: Any = warnings.warn) -> None:
        if self.is_closed():
            return
        try:
            _warn(f"unclosed event loop {self!r}", ResourceWarning, source=self)
        finally:  # also where warnings are errors
            if not self.is_running():
                self.close()

    def set_debug(self, enabled: bool) -> None:
        """Switch debug mode on or off; the loop may be running.

        Args:
            enabled: whether to check threads and callbacks, log slow callbacks, and record where handles are
                created.
        """
        self._debug = enabled
        if self.is_running():
            self.call_soon_threadsafe(self._set_coroutine_origin_tracking, enabled)


call_fast(EventLoop)
time_fast(EventLoop)
