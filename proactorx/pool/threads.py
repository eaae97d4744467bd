"""``IOThreadPool``: what runs per thread or per pool; what runs per call is in ``core.pyx``."""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from operator import index
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

from proactorx.pool.core import CLOSED, FORKED, IOThread, PoolCore
from proactorx.pool.jobs import name_this_thread
from proactorx.pool.poller import Poller
from proactorx.pool.thread_numbers import io_threads

if TYPE_CHECKING:
    from proactorx.port.public import CompletionPort, Packet

#: The limits and the gate thread follow the IO threads of .NET's first thread pool: SetMinThreads.
MAX_THREADS = 64
#: More than .NET has at once (one per CPU): with 2 threads, 32 bodies of 0.5 ms at a time took 2.8 times as
#: long as on an executor, with 8 threads 0.7 times. A thread is started only when there is work for it.
MIN_THREADS = 8
IDLE = 20.0
GATE = 0.5
LOG_LENGTH = 200
LONGEST = 1e9  # seconds; what a wait of the system takes
#: How long the interpreter's exit waits for what runs. A name server may not answer for minutes.
EXIT_DEADLINE = 5.0

_pools: weakref.WeakSet[IOThreadPool] = weakref.WeakSet()
_here = threading.local()  # `place`: the pool and the IOThread of the thread that asks


class Growth(NamedTuple):
    """One decision of a pool: a thread was started, or has ended."""

    time: float
    """``time.monotonic()`` of it."""
    change: int
    """1: started; -1: ended; 0: the system refused a thread."""
    reason: str
    """``minimum``, ``blocking``, ``starvation``, ``compensation``; ``idle``, ``limit lowered``, ``closed``;
    or what the system said."""
    active: int
    """How many there were then."""


class PoolStats(NamedTuple):
    """What ``IOThreadPool.stats()`` says."""

    active: int
    """Threads, idle ones included."""
    working: int
    """Threads that run something."""
    retired: int
    """Threads that have ended, since the pool was made."""
    queued: int
    """Packets that no thread has taken yet."""
    completed: int
    """Packets that a thread is done with."""
    oldest_wait: float
    """Seconds for which the first of the queued packets has waited; 0 where none is queued."""
    log: tuple[Growth, ...]
    """The last 200 decisions."""


class IOThreadPool(PoolCore):
    """Threads for what blocks: file operations, name lookups, callbacks of completion ports.

    The first packet starts a thread, and so does each further one that finds no idle thread, up to
    `min_threads`. Beyond that, one thread is started per `gate` seconds while packets wait and none was
    taken, or while fewer than `min_threads` threads are not blocked. A thread that had nothing to do for
    `idle` seconds ends; the last one stays.

    The threads are daemons. The interpreter's exit waits a few seconds for what runs, and not for more.

    Args:
        min_threads: default: one per CPU, but at least 8.
        max_threads: default 64.
        idle: seconds.
        gate: seconds.
        backend: of the port behind ``bind``; see ``CompletionPort``.

    Raises:
        ValueError: not ``1 <= min_threads <= max_threads``, or `idle` or `gate` is not positive.
    """

    def __init__(
        self,
        min_threads: int | None = None,
        max_threads: int | None = None,
        *,
        idle: float = IDLE,
        gate: float = GATE,
        backend: str | None = None,
    ) -> None:
        if not (idle > 0 and gate > 0):
            raise ValueError(f"idle and gate must be positive, not {idle!r} and {gate!r}")
        if max_threads is None:
            max_threads = max(MAX_THREADS, min_threads or 0)
        if min_threads is None:
            min_threads = min(max(MIN_THREADS, _cpus()), max_threads)
        self._set_idle(round(min(idle, LONGEST) * 1e6))
        self._limits(_positive(min_threads), _positive(max_threads))
        self._idle = idle
        self._gate_period = min(gate, LONGEST)
        self._backend = backend
        self._port_lock = threading.Lock()  # of the next two
        self._poller: Poller | None = None
        self._ending = False
        self._bell = threading.Lock()  # wakes the gate thread
        self._bell.acquire()
        self._lock = threading.Condition()  # of the next three; told when a thread ends
        self._threads: set[threading.Thread] = set()  # the gate's too; from before they are started
        self._last: threading.Thread | None = None  # ... of them to end; it waits for the one before it
        self._log: deque[Growth] = deque(maxlen=LOG_LENGTH)
        _pools.add(self)

    def __repr__(self) -> str:
        active, working, _, queued, *_ = self._counts()
        least, most = self._limits()
        return f"<IOThreadPool active={active} working={working} queued={queued} threads={least}..{most}>"

    # ------------------------------------------------------------------------------------------------- limits

    @property
    def min_threads(self) -> int:
        """So many threads are started without delay."""
        return self._limits()[0]

    @min_threads.setter
    def min_threads(self, value: int) -> None:
        """ValueError where the two do not fit together or are not positive; nothing is changed then."""
        self._limits(_positive(value), 0)
        self._reconsider()

    @property
    def max_threads(self) -> int:
        """So many threads there are at most. Lowering it ends no running call."""
        return self._limits()[1]

    @max_threads.setter
    def max_threads(self, value: int) -> None:
        """ValueError where the two do not fit together or are not positive; nothing is changed then."""
        self._limits(0, _positive(value))
        self._reconsider()

    @property
    def idle(self) -> float:
        """Seconds after which a thread that has nothing to do ends."""
        return self._idle

    @property
    def gate(self) -> float:
        """Seconds between two threads that are started beyond the minimum."""
        return self._gate_period

    def stats(self) -> PoolStats:
        """Counts, and the log of the last decisions.

        Raises:
            RuntimeError: the pool belongs to the parent of this (forked) process.
        """
        if self._forked():
            raise RuntimeError(FORKED)
        with self._lock:
            log = tuple(self._log)
        return PoolStats(*self._counts(), log)

    @contextlib.contextmanager
    def blocking(self) -> Iterator[None]:
        """Say on an IO thread that it is about to block: it does not count against the minimum meanwhile.

        Raises:
            RuntimeError: this is no thread of this pool.
        """
        pool, io_thread = getattr(_here, "place", (None, None))
        if pool is not self or io_thread is None:
            raise RuntimeError("blocking() is for the pool's own threads")
        self._block(io_thread, 1)
        try:
            self._reconsider()
            yield
        finally:
            self._block(io_thread, -1)

    # --------------------------------------------------------------------------------------------------- bind

    @property
    def port(self) -> CompletionPort:
        """The pool's completion port, made when it is first asked for; the pool takes its packets.

        Operations are started with its methods. A packet goes to its key, ``key(packet)``, on an IO thread.

        Raises:
            RuntimeError: the pool is closed or of the parent process.
            ValueError: an unknown backend.
            BackendError: the named backend cannot run here.
        """
        if self._forked():
            raise RuntimeError(FORKED)
        with self._port_lock:
            if self._poller is None:
                if self._ending:
                    raise RuntimeError(CLOSED)
                self._poller = Poller(self._backend, lambda key, packet: self._queue(key, (packet,)))
            return self._poller.port

    def bind(self, file: Any, callback: Callable[[Packet], object]) -> None:
        """Bind `file` to ``port``: an IO thread calls ``callback(packet)`` for each completed operation.

        Args:
            file: a socket, a file object or a descriptor; ``port.unbind`` is the counterpart.
            callback: what it raises is reported by ``threading.excepthook``.

        Raises:
            ValueError: it is bound already, or closed.
            OSError: it is not open.
            RuntimeError: as of ``port``.
        """
        if not callable(callback):
            raise TypeError(f"a callable object was expected, got {callback!r}")
        self.port.bind(file, callback)

    # ------------------------------------------------------------------------------------------------ threads

    def _start(self, reason: str) -> None:
        """Start the thread for which the core has raised its count."""
        io_thread = IOThread()
        self._enter(io_thread)
        number = io_threads.take()
        name = io_thread.name = f"proactorx-io-{number}"
        thread = threading.Thread(target=self._main, args=(io_thread, number), name=name, daemon=True)
        with self._lock:
            self._threads.add(thread)
        started = self._note(1, reason)
        try:
            thread.start()
        except BaseException as exc:
            # A KeyboardInterrupt may come when the thread has started; it sees then that it is not counted,
            # and ends.
            self._refused(io_thread, exc)
            with self._lock:
                self._threads.discard(thread)
                self._lock.notify_all()
                if started in self._log:
                    self._log.remove(started)
            self._note(0, str(exc))
            if not isinstance(exc, RuntimeError | MemoryError):
                raise
            io_threads.give_back(number)

    def _main(self, io_thread: IOThread, number: int) -> None:
        name_this_thread(io_thread.name)
        _here.place = (self, io_thread)
        try:
            self._serve(io_thread)
        finally:
            io_threads.give_back(number)
            self._note(-1, io_thread.why)
            if io_thread.why == "closed":
                self._ring()  # the gate's thread need not wait for its period
            self._ends()

    def _ends(self) -> None:
        """Called by a thread at its end. Each waits for the one before it: joining the last one joins all."""
        me = threading.current_thread()
        with self._lock:
            before, self._last = self._last, me
            self._threads.discard(me)
            self._lock.notify_all()
        if before is not None:
            before.join()

    def _note(self, change: int, reason: str) -> Growth:
        active = self._counts()[0]
        with self._lock:
            entry = Growth(time.monotonic(), change, reason, active)
            self._log.append(entry)
        return entry

    def _start_gate(self) -> None:
        thread = threading.Thread(target=self._watch, name="proactorx-gate", daemon=True)
        with self._lock:
            self._threads.add(thread)
        try:
            thread.start()
        except RuntimeError as exc:
            with self._lock:
                self._threads.discard(thread)
                self._lock.notify_all()
            self._gate_ended()
            self._note(0, str(exc))

    def _watch(self) -> None:
        name_this_thread("proactorx-gate")
        try:
            while (reason := self._next_sample()) != "end":
                if reason is not None:
                    self._start(reason)
        finally:
            self._ends()

    def _next_sample(self) -> str | None:
        self._bell.acquire(timeout=self._gate_period)
        return self._sample_threads()

    def _ring(self) -> None:
        with contextlib.suppress(RuntimeError):
            self._bell.release()

    @staticmethod
    def _report(exc: BaseException) -> None:
        """Tell of what a callback raised, as of what a thread's body raises."""
        if isinstance(exc, SystemExit):
            return
        args = threading.ExceptHookArgs((type(exc), exc, exc.__traceback__, threading.current_thread()))
        try:
            threading.excepthook(args)
        except Exception:
            sys.excepthook(*sys.exc_info())

    # ---------------------------------------------------------------------------------------------------- end

    def close(self, wait: bool = True, *, cancel_queued: bool = False) -> None:
        """Take nothing more; what was queued is run, and the threads end. Twice is allowed.

        Operations on files that were bound are ended first; the callbacks get their packets too.

        Args:
            wait: return when all of it has been run and the threads have ended.
            cancel_queued: do not run what has not begun: futures are cancelled, callbacks dropped.

        Raises:
            RuntimeError: `wait`, on a thread of this pool.
        """
        if self._forked():
            return
        if wait and getattr(_here, "place", (None,))[0] is self:
            raise RuntimeError("a thread of the pool cannot wait for its own end")
        with self._port_lock:
            self._ending = True
            poller, self._poller = self._poller, None
        if poller is not None:
            poller.close()
        self._close(cancel_queued)
        self._ring()
        if wait:
            self._join(None)

    def _join(self, deadline: float | None) -> None:
        """After ``_close``: until there is no thread, nor one that is counted and about to be started."""
        with self._lock:
            if not self._lock.wait_for(lambda: not self._counts()[0] and not self._threads, _left(deadline)):
                return
            last = self._last
        if last is not None:
            last.join(_left(deadline))

    def __enter__(self) -> IOThreadPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _positive(value: int) -> int:
    if not 0 < index(value) < 1 << 31:
        raise ValueError(f"a number of threads must be positive, not {value!r}")
    return index(value)


def _left(deadline: float | None) -> float | None:
    return None if deadline is None else max(deadline - time.monotonic(), 0.0)


def _cpus() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@atexit.register
def _at_exit() -> None:
    deadline = time.monotonic() + EXIT_DEADLINE
    pools = [pool for pool in list(_pools) if not pool._forked()]
    for pool in pools:
        pool.close(wait=False)
    for pool in pools:
        pool._join(deadline)


_default: IOThreadPool | None = None
_making = threading.Lock()


def default_pool() -> IOThreadPool:
    """The pool of this process for calls that belong to no loop of ours. Do not close it."""
    global _default
    with _making:
        if _default is None or _default._forked():
            _default = IOThreadPool()
        return _default


def _after_fork() -> None:
    global _making
    _making = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
