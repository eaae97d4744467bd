"""How a running loop is seen from outside: ``stats``, ``watch``, ``expose``, ``record_to``."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from proactorx.observe import running, witness

# What looks at loops is imported by those who look: it would be half of the time of `import proactorx`.
if TYPE_CHECKING:
    from proactorx.observe.seen import Seen
    from proactorx.observe.stall import Stall
    from proactorx.observe.stats import CallStats, LoopStats

_recording = threading.Lock()  # one thread at a time makes what a loop records into


class Inspection(asyncio.BaseEventLoop):
    """What other threads may ask a loop that runs."""

    _number: int  # of the loops of this process; 0: it has not run yet
    _thread_state: int  # the address of the interpreter's own of that thread; 0: the loop does not run
    _native_id: int | None  # of the thread that runs the loop, as the system numbers it

    def stats(self) -> LoopStats:
        """Return counts, times and what is in flight now. Any thread may ask; the loop does not wait for it.

        Values are read one after the other while the loop goes on, so two of them can be a turn apart.
        """
        from proactorx.observe.stats import stats_of

        return stats_of(cast("Seen", self))

    def watch(
        self,
        after: float | None = 0.1,
        *,
        repeat: float | None = None,
        report: Callable[[Stall], object] | None = None,
        traces: str | os.PathLike[str] | None = None,
    ) -> None:
        """Report turns that last too long: once while they do, with the Python stack, and once at their end.

        One thread of the process watches all its loops.

        Args:
            after: seconds; None: watch this loop no more.
            repeat: seconds after which a stall that goes on is reported again; None: it is not.
            report: called with each ``Stall``, in the watchdog's thread; default: a warning is logged by the
                logger ``proactorx``.
            traces: a folder, where a page with the trace is written at the end of each stall; the process
                keeps the last 20.

        Raises:
            ValueError: a time is shorter than 1 ms.
            RuntimeError: the loop is closed.
        """
        if after is None:
            if running.observer is not None:
                running.observer.forget(cast("Seen", self))
            return
        from proactorx.observe import trace, watchdog

        if self.is_closed():
            raise RuntimeError("Event loop is closed")
        if repeat is not None:
            watchdog.checked(repeat)
        tell = report or watchdog.log
        if traces is not None:
            tell = trace.write_at_each_end(tell, traces)
        watchdog.watchdog().watch(cast("Seen", self), watchdog.checked(after), repeat, tell)

    def expose(self) -> str:
        """Let ``python -m proactorx top``, ``ps`` and ``pstree`` look at the loops of this process.

        Returns:
            The path of the Unix socket that answers, to processes of the same user only.

        Raises:
            RuntimeError: this Python has no Unix sockets, or the folder for them is not safe.
            OSError: the socket cannot be made.
        """
        from proactorx.observe import expose

        return str(expose.expose())

    def record(self, *, detail: bool) -> None:
        """Record each callback and each packet too, from now on, or no more. Any thread may ask.

        Each then costs a part of a microsecond, which is why this is off unless it is asked for. They
        are in the traces that ``record_to`` writes, and in ``calls``.

        Args:
            detail: whether to.
        """
        with _recording:
            cast("Seen", self)._note_calls(detail)

    def calls(self) -> tuple[CallStats, ...]:
        """Return what was called while ``record(detail=True)`` was on: what took the most time first."""
        from proactorx.observe.stats import calls_of

        return calls_of(cast("Seen", self))

    def record_to(self, path: str | os.PathLike[str]) -> int:
        """Write the last 65,536 turns as a trace that Chrome (chrome://tracing) and Perfetto open.

        The recorder is always on. The trace has turns with the packets and callbacks of each, sleeps, waits
        for the GIL, the stalls that the watchdog has reported, what the threads of both pools have run, what
        each listener has accepted, and the operations and tasks of the moment. Any thread may ask.

        Args:
            path: of the file, which is made or written over. JSON, or, where its name ends in ``.html``, a
                page that draws it, in any browser and without a network.

        Returns:
            How many events it has.

        Raises:
            OSError: it cannot be written.
        """
        from proactorx.observe import trace

        return trace.write(cast("Seen", self), path)

    def _init_inspection(self) -> None:
        self._number = self._thread_state = 0
        self._native_id = None
        if os.environ.get("PROACTORX_DETAIL", "") not in ("", "0"):
            self.record(detail=True)
        if os.environ.get("PROACTORX_TOP", "") not in ("", "0"):
            self.expose()
        if running.observer is None and not os.environ.get("PROACTORX_WATCHDOG"):
            return
        from proactorx.observe import watchdog

        after = watchdog.default_after()
        if after is not None:
            self.watch(after, traces=os.environ.get("PROACTORX_TRACES") or None)

    def _begin_inspection(self) -> None:
        self._native_id = threading.get_native_id()
        self._thread_state = witness.thread_state()
        running.begins(cast("Seen", self))

    def _end_inspection(self) -> None:
        running.ends(cast("Seen", self))
        self._native_id = None
