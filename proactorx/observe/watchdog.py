"""The watchdog: one thread of the process that looks at the loops which are watched, and reports stalls.

It reads when the current turn of each loop began. Where that is too long ago, it takes the Python stack of
the loop's thread, and finds out why that thread does not go on:

* its clock of CPU time goes on: it computes;
* the watchdog itself had to wait for the GIL: somebody keeps it, the thread whose CPU time went on;
* it waits for a processor: Linux tells for how long it has been ready to run;
* else it waits in a call that blocks.

What does not count: time in which the watchdog itself did not wake. The process was stopped then, or the
machine suspended, or it had no processor to spare.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import re
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from proactorx.observe import census, running, witness
from proactorx.observe.alarm import Alarm, now_ns
from proactorx.observe.stall import (
    BLOCKED,
    COMPUTING,
    CPU,
    GIL,
    NOBODY,
    UNKNOWN,
    Stall,
    keep,
    look_at,
)
from proactorx.observe.trace import RECORD
from proactorx.pool.jobs import name_this_thread

if TYPE_CHECKING:
    from proactorx.observe.seen import Seen

logger: logging.Logger = logging.getLogger("proactorx")

NAME = "proactorx-watchdog"
PROBER = "proactorx-probe"
SHORTEST = 0.001  # seconds: the least `after`
LOOKS = 4  # how often the watchdog looks within `after`
LONGEST_SLEEP = 0.25
OVERSLEPT = (
    20_000_000  # ns: a sleep that is longer than it should be by this says that the process stood still
)
MOST = 0.5  # this share of a stall says what it was
FEW = 0.2  # ... and so much of the time in which a thread was ready: that it had a processor after all
HOLDER = 0.1  # who keeps the GIL has computed for this share of the stall, however busy the machine is
SECOND_LOOK = 0.02  # seconds
THREADS_EVERY = 4  # looks: so often the CPU times of all threads are read

STATE = re.compile(r"^  state: (\w)$", re.MULTILINE)
"""As the witness writes it: the state of the loop's thread while nobody could have the GIL."""

Report = Callable[[Stall], object]


def log(stall: Stall) -> None:
    """What is done with a stall if nothing else is asked for."""
    logger.warning("%s", stall)


@dataclass(frozen=True)
class Used:
    """What a thread has had until a moment, in ns."""

    at: int
    cpu: int | None
    """None: the system does not say."""
    ready: int
    """For how long it was ready to run and had no processor."""

    @classmethod
    def by(cls, native_id: int | None) -> Used:
        """Ask the system about a thread."""
        if native_id is None:
            return cls(now_ns(), None, 0)
        ready = 0
        with contextlib.suppress(OSError, ValueError):
            with open(f"/proc/self/task/{native_id}/schedstat", "rb") as file:
                _, text, _ = file.read().split()
            ready = int(text)
        return cls(now_ns(), census.thread_cpu(native_id), ready)


@dataclass(eq=False)
class Watch:
    """One loop that is watched."""

    loop: weakref.ref[Seen]
    after: int
    repeat: int | None
    report: Report
    turn: int = 0  # when the turn began that was seen last, which is its name; 0: none
    used: Used | None = None  # at the last look that did not see this turn
    latest: Used | None = None  # at the last look of all
    gil: int = 0  # for how long the watchdog has waited for the GIL in this turn
    slow: int = 0  # how many long turns the loop itself had counted at the last look
    seen: tuple[int, str] = (0, "")  # a turn, and what was read without the GIL in it
    said: Stall | None = None
    next: int = 0  # when it is repeated

    def seen_in(self, turn: int) -> str:
        """What was read without the GIL in that turn; empty: nothing."""
        return self.seen[1] if self.seen[0] == turn else ""

    def before(self, began: int) -> Used | None:
        """What the thread had had when a turn began, as far as that was looked at."""
        if self.latest is not None and self.latest.cpu is not None and self.latest.at <= began:
            self.used = self.latest
        return self.used


class Watchdog:
    """The thread, and what it watches."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._watches: dict[int, Watch] = {}  # by the loop's id
        self._thread: threading.Thread | None = None
        self._prober: threading.Thread | None = None
        self._bell = Alarm()  # of that
        self._alarm = Alarm()
        self._stopping = False
        self._excused = 0  # what was before does not count
        self._looks = 0
        self._threads: dict[int, tuple[str, int]] = {}  # native id: name, CPU time at an earlier look

    def watch(self, loop: Seen, after: float, repeat: float | None, report: Report) -> None:
        """Report the stalls of `loop` from now on."""
        made = Watch(
            weakref.ref(loop), round(after * 1e9), None if repeat is None else round(repeat * 1e9), report
        )
        made.slow = loop._turn()[2]
        made.used = Used.by(loop._native_id)
        with self._lock:
            self._watches[id(loop)] = made
            self._suspect(made, loop)
            self._start()
        loop._note_turns(made.after)
        self._alarm.ring()

    def forget(self, loop: Seen) -> None:
        """The counterpart."""
        with self._lock:
            found = self._watches.pop(id(loop), None)
            witness.release(id(loop))
        if found is not None:
            loop._note_turns(0)
            self._alarm.ring()
            self._bell.ring()

    def begins(self, loop: Seen) -> None:
        """`loop` runs from now on, in this thread."""
        watch = self._watches.get(id(loop))
        if watch is not None:
            watch.used = watch.latest = Used.by(loop._native_id)
            with self._lock:
                self._suspect(watch, loop)

    def ends(self, loop: Seen) -> None:
        """The counterpart."""
        with self._lock:
            loop._thread_state = 0
            if id(loop) in self._watches:
                witness.release(id(loop))

    def _suspect(self, watch: Watch, loop: Seen) -> None:
        """Have it looked at without the GIL, too; under the lock."""
        if loop._thread_state and witness.begin():
            address, loud = loop._turn_address(), watch.report is log
            native_id = loop._native_id or 0
            witness.suspect(id(loop), address, watch.after, loop._thread_state, native_id, loud)
            if self._prober is None and not self._stopping:
                self._prober = threading.Thread(target=self._probe, name=PROBER, daemon=True)
                self._prober.start()

    def _probe(self) -> None:
        """Ask for the GIL now and then: its own thread, since the watchdog waits for it at many places."""
        name_this_thread(PROBER)
        while True:
            with self._lock:
                if self._stopping or not self._watches:
                    self._prober = None
                    return
                period = 2 * self._period(list(self._watches.values()))
            self._bell.probe(period)

    def _start(self) -> None:
        if self._thread is None and not self._stopping:
            self._thread = threading.Thread(target=self._main, name=NAME, daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """End the thread, and start no other: the interpreter ends."""
        self._stopping = True
        with self._lock:
            for key in self._watches:
                witness.release(key)
        self._alarm.ring()
        self._bell.ring()
        for thread in (self._thread, self._prober):
            if thread is not None:
                thread.join(1)

    # ----------------------------------------------------------------------------------------- its own thread

    def _main(self) -> None:
        name_this_thread(NAME)
        self._threads = _cpu_of_threads()
        self._excused = now_ns()
        while True:
            with self._lock:
                if self._stopping or not self._watches:
                    self._thread = None
                    return
                watches = list(self._watches.values())
            overslept, gil = self._alarm.sleep(self._period(watches))
            now = now_ns()
            if overslept > OVERSLEPT:
                self._excused = now - gil  # nobody has run meanwhile, or hardly
                gil = 0
            for owner, turn, text in witness.collect():
                for each in watches:
                    if id(each.loop()) == owner:
                        each.seen = turn, text
            self._looks += 1
            for watch in watches:
                with self._lock:
                    if watch not in self._watches.values():
                        continue  # it ended, or another one took its place, while this thread slept
                try:
                    self._look(watch, now, gil)
                except Exception:  # the next look may find more
                    logger.exception("the watchdog could not look at a loop")
            if self._looks % THREADS_EVERY == 0:
                self._threads = _cpu_of_threads()

    def _period(self, watches: list[Watch]) -> float:
        least = min((watch.after for watch in watches), default=10**12)
        return max(SHORTEST, min(LONGEST_SLEEP, least / LOOKS * 1e-9))

    def _look(self, watch: Watch, now: int, gil: int) -> None:
        loop = watch.loop()
        if loop is None:
            with self._lock:
                self._watches = {key: each for key, each in self._watches.items() if each is not watch}
            return
        ident, native_id = loop._thread_id, loop._native_id
        began, awake, slow, slow_began, slow_ended = loop._turn()
        turn = began or (awake if ident is not None else 0)
        told = watch.said is not None and turn != watch.turn
        if told:
            self._ends(watch, slow_ended if slow_began == watch.turn else _end_of(loop, watch.turn) or now)
        if slow != watch.slow and slow_began >= self._excused and not (told and slow_began == watch.turn):
            known = watch.gil if slow_began == watch.turn else 0
            self._too_late(watch, loop, slow_began, slow_ended, known + gil)
        if turn != watch.turn:
            watch.turn, watch.gil, watch.said = turn, gil, None
        elif turn:
            watch.gil += gil
        watch.slow = slow
        lasts = now - max(turn, self._excused)
        if not turn or ident is None or lasts < watch.after:
            if not turn or watch.used is None or watch.turn >= watch.used.at:
                watch.used = watch.latest = Used.by(native_id)
            return
        if watch.said is None or (watch.repeat is not None and now >= watch.next):
            self._say(watch, loop, ident, native_id, lasts, waits=not began)
            watch.latest = Used.by(native_id)
            self._threads = _cpu_of_threads()

    def _say(
        self, watch: Watch, loop: Seen, ident: int, native_id: int | None, lasts: int, *, waits: bool
    ) -> None:
        """The stall goes on now: look at its stack."""
        # The stack first: asking why reads files, which lets go of the GIL, and the turn may end meanwhile.
        culprit = NOBODY if waits else look_at(loop, ident)
        if loop._turn()[0] != (0 if waits else watch.turn):
            culprit = NOBODY  # it went on while it was looked at
        kind, holder, keeps = self._why(watch, native_id, lasts, waits=waits)
        watch.said = Stall(
            loop,
            "begins" if watch.said is None else "lasts",
            kind,
            lasts * 1e-9,
            keeps,
            culprit.task,
            culprit.coroutines,
            culprit.callback,
            holder,
            culprit.stack,
            watch.seen_in(watch.turn),
        )
        watch.next = now_ns() + (watch.repeat or 0)
        _call(watch.report, watch.said)

    def _why(
        self, watch: Watch, native_id: int | None, lasts: int, *, waits: bool
    ) -> tuple[str, str | None, bool]:
        """(kind, who holds the GIL, whether it was kept)."""
        dump = watch.seen_in(watch.turn)
        keeps = bool(dump) or watch.gil >= MOST * lasts
        kind, own = None, 0
        seen = STATE.search(dump)
        runs = seen[1] == "R" if seen is not None else _runs(native_id)
        if not waits:
            kind, own = _ran(watch.before(watch.turn), Used.by(native_id), lasts, began=watch.turn, runs=runs)
        if kind == UNKNOWN and not keeps:
            # It has not been looked at before the stall: so look twice now.
            before = Used.by(native_id)
            self._alarm.sleep(SECOND_LOOK)
            now = Used.by(native_id)
            kind, own = _ran(before, now, now.at - before.at, runs=_runs(native_id))
        holder = self._holder(native_id, lasts, own) if waits or keeps else None
        return GIL if waits or holder is not None else kind or BLOCKED, holder, keeps

    def _holder(self, native_id: int | None, lasts: int, own: int) -> str | None:
        """The name of the other thread that has computed most in that time, and more than the loop's own."""
        found, most = None, max(HOLDER * lasts, own)
        threads = _cpu_of_threads()
        for other, (name, cpu) in threads.items():
            used = cpu - self._threads.get(other, (name, 0))[1]
            if other != native_id and used >= most and name not in (NAME, PROBER):
                found, most = name, used
        if found is None and own < HOLDER * lasts:  # one that has ended meanwhile?
            ended = [each[::-1] for other, each in self._threads.items() if other not in threads]
            found = max(ended)[1] if ended else None
        return found

    def _ends(self, watch: Watch, ended: int) -> None:
        """A stall that was reported is over."""
        said = watch.said
        assert said is not None
        watch.said = None
        seconds = max(said.seconds, (ended - max(watch.turn, 0)) * 1e-9)
        keep(said, ended, seconds)
        _call(watch.report, replace(said, phase="ends", seconds=seconds))

    def _too_late(self, watch: Watch, loop: Seen, began: int, ended: int, gil: int) -> None:
        """The loop had a long turn, or a long wait for the GIL, that is over before it could be looked at."""
        lasted = ended - began
        keeps = gil >= MOST * lasted
        native_id = loop._native_id
        kind, own = _ran(watch.before(began), Used.by(native_id), lasted, began=began)
        holder = self._holder(native_id, lasted, own) if keeps else None
        kind = GIL if holder is not None else kind or BLOCKED
        seen = watch.seen_in(began)
        stall = Stall(loop, "ends", kind, lasted * 1e-9, keeps, None, (), None, holder, "", seen)
        keep(stall, ended, stall.seconds)
        _call(watch.report, stall)


def _end_of(loop: Seen, turn: int) -> int | None:
    """When a turn was over, by the recorder; None: it does not know."""
    for began, ended, _, _, _ in RECORD.iter_unpack(loop._records()):
        if began <= turn < ended:
            return int(ended)
    return None


def _ran(
    before: Used | None, now: Used, lasted: int, *, began: int = 0, runs: bool = False
) -> tuple[str | None, int]:
    """What a thread was doing that was ready to run for most of the time, and the CPU time it had at least.

    None: it was not ready. What it has had since `before` may be of the time before the stall `began`.
    """
    if before is None or before.cpu is None or now.cpu is None:
        return UNKNOWN, 0
    cpu, ready = now.cpu - before.cpu, now.ready - before.ready
    earlier = max(0, began - before.at)
    own, ready = max(0, cpu - earlier), max(0, ready - earlier)
    if cpu + ready >= MOST * lasted:
        return COMPUTING if cpu >= FEW * (cpu + ready) else CPU, own
    if runs:  # the time since it became ready is only counted when it has a processor
        return COMPUTING if cpu >= FEW * lasted else CPU, own
    # It computed for a part of the time. The host of a virtual machine may have had the rest: not counted.
    return (UNKNOWN if own >= FEW * lasted else None), own


def _runs(native_id: int | None) -> bool:
    """Whether a thread has a processor, or waits for one; False where the system does not say."""
    with contextlib.suppress(OSError, IndexError):
        with open(f"/proc/self/task/{native_id}/stat", "rb") as file:
            return file.read().rpartition(b") ")[2][:1] == b"R"
    return False


def _cpu_of_threads() -> dict[int, tuple[str, int]]:
    """Of each thread that Python knows, by its native id: the name, and the CPU time in ns."""
    found = {}
    for thread in threading.enumerate():
        if thread.native_id is not None:
            cpu = census.thread_cpu(thread.native_id)
            if cpu is not None:
                found[thread.native_id] = (thread.name, cpu)
    return found


def _call(report: Report, stall: Stall) -> None:
    try:
        report(stall)
    except Exception:
        logger.exception("the report of a stall failed")


UNITS = {"ms": 1e-3, "s": 1.0, "us": 1e-6, "": 1.0}


def seconds_of(text: str) -> float:
    """Return the seconds of a duration in words: ``100ms``, ``0.5s``, ``2``.

    Raises:
        ValueError: it is none, or shorter than 1 ms.
    """
    number = text.strip().rstrip("musec ")
    unit = text.strip()[len(number) :].strip()
    try:
        seconds = float(number) * UNITS[unit]
    except (KeyError, ValueError):
        raise ValueError(f"{text!r} is no duration: 100ms, 0.5s") from None
    return checked(seconds)


def checked(seconds: float) -> float:
    """ValueError: no time that can be waited for."""
    if not SHORTEST <= seconds <= 1e6:
        raise ValueError(f"a time must be between 1 ms and 1e6 s, not {seconds!r}")
    return seconds


running.observer = Watchdog()
_default: float | None = None


def watchdog() -> Watchdog:
    """The one of this process."""
    found = running.observer
    assert isinstance(found, Watchdog)
    return found


def watch_all(after: float) -> None:
    """Watch all loops of this process that are made from now on."""
    global _default
    _default = after


def default_after() -> float | None:
    """After how many seconds stalls of a new loop are reported; None: they are not.

    Raises:
        ValueError: ``PROACTORX_WATCHDOG`` is no duration.
    """
    text = os.environ.get("PROACTORX_WATCHDOG")
    if _default is not None or not text:
        return _default
    try:
        return seconds_of(text)
    except ValueError as exc:
        raise ValueError(f"PROACTORX_WATCHDOG: {exc}") from None


def _after_fork() -> None:
    witness.forked()
    running.observer = Watchdog()  # the thread is the parent's, and so are the loops


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


@atexit.register
def _at_exit() -> None:
    watchdog().stop()
