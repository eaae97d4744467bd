"""A stall: a loop that does not turn, who keeps it from that, and how it is said."""

from __future__ import annotations

import asyncio
import inspect
import os
import sys
import traceback
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from proactorx.observe.seen import Seen

BLOCKED = "blocking call"
COMPUTING = "computing"
GIL = "waiting for the GIL"
CPU = "waiting for a processor"
UNKNOWN = "blocked or computing"

IN_COROUTINE = inspect.CO_COROUTINE | inspect.CO_ITERABLE_COROUTINE | inspect.CO_ASYNC_GENERATOR
MOST_FRAMES = 60
LOOP = os.path.join("proactorx", "loop", "event_loop.py")


@dataclass(frozen=True)
class Stall:
    """What the watchdog says of a turn that lasts too long."""

    loop: Seen
    phase: str
    """``begins``, ``lasts`` (with ``repeat``) or ``ends``."""
    kind: str
    """``blocking call``, ``computing``, ``waiting for the GIL``, ``waiting for a processor``, or ``blocked or
    computing`` where the system does not tell the two apart, or it did some of both."""
    seconds: float
    """How long the turn has lasted so far; at the end: in all."""
    keeps_gil: bool
    """Whether no other thread could run Python code meanwhile."""
    task: str | None
    """The name of the task that runs; None: a callback does."""
    coroutines: tuple[str, ...]
    """The coroutines of that task that run, from the outermost to the innermost."""
    callback: str | None
    """What the loop has called, where that is known."""
    holder: str | None
    """The name of the thread that holds the GIL, or held it until now."""
    stack: str
    """The Python stack of the loop's thread, from the callback on; of a stall that nobody could look at while
    it lasted: empty."""
    dump: str = ""
    """What was read without the GIL while nobody could have it: the Python stack of the thread, innermost
    call first, as ``faulthandler`` writes it, and what the kernel says of that thread."""

    def __str__(self) -> str:
        kind = f"{self.kind} held by thread {self.holder}" if self.holder else self.kind
        if self.keeps_gil and self.kind != GIL:
            kind += ", in code that keeps the GIL"
        who = self._who()
        if self.phase == "ends":
            text = f"the loop goes on after {self.seconds:.3f} s: {kind}{who}"
            return text if self.stack else self._with_dump(text)
        text = f"the loop has not turned for {self.seconds:.3f} s: {kind}{who}"
        return self._with_dump(f"{text}\n{self.stack}".rstrip())

    def _with_dump(self, text: str) -> str:
        if not self.dump:
            return text
        return f"{text}\nread without the GIL, while nobody could have it:\n{self.dump}".rstrip()

    def _who(self) -> str:
        if self.task is not None:
            return f", in task {self.task!r}" + (
                f" ({' > '.join(self.coroutines)})" if self.coroutines else ""
            )
        return f", in callback {self.callback}" if self.callback else ""


@dataclass(frozen=True)
class Culprit:
    """What a loop's thread does at this moment."""

    task: str | None
    coroutines: tuple[str, ...]
    callback: str | None
    stack: str


NOBODY = Culprit(None, (), None, "")


def look_at(loop: Seen, ident: int) -> Culprit:
    """Take the Python stack of the thread that runs `loop`, and name what runs there."""
    frame = sys._current_frames().get(ident)
    frames = list(_of_the_callback(frame))
    frame = None
    task = _task_of(loop)
    coroutines = tuple(each.f_code.co_qualname for each in frames if each.f_code.co_flags & IN_COROUTINE)
    callback = frames[0].f_code.co_qualname if frames else _called(loop)
    rows = traceback.StackSummary.extract((each, each.f_lineno) for each in frames[-MOST_FRAMES:])
    return Culprit(task, coroutines if task is not None else (), callback, "".join(rows.format()))


def _of_the_callback(frame: FrameType | None) -> Iterator[FrameType]:
    """The frames of the thread above the loop's own, from the outermost on."""
    found = []
    while frame is not None and not _runs_the_loop(frame):
        found.append(frame)
        frame = frame.f_back
    return reversed(found)


def _runs_the_loop(frame: FrameType) -> bool:
    return frame.f_code.co_name == "run_forever" and frame.f_code.co_filename.endswith(LOOP)


def _task_of(loop: Seen) -> str | None:
    try:
        task = asyncio.current_task(loop)  # type: ignore[arg-type]
    except RuntimeError:
        return None
    return task.get_name() if task is not None else None


def _called(loop: Seen) -> str | None:
    """What the loop calls, of which there is no Python frame."""
    handle = loop._called()
    if handle is None:
        return None
    callback = handle._callback
    return getattr(callback, "__qualname__", None) or repr(callback)


@dataclass(frozen=True)
class Told:
    """A stall that is over, without a reference to its loop."""

    loop: int
    ended: int
    seconds: float
    kind: str
    text: str


_told: deque[Told] = deque(maxlen=100)


def keep(stall: Stall, ended: int, seconds: float) -> None:
    """Have a stall that is over at hand for the recorder."""
    _told.append(Told(stall.loop._number, ended, seconds, stall.kind, str(stall)))


def told(loop: Seen) -> list[Told]:
    """The last stalls of `loop`."""
    return [each for each in _told.copy() if each.loop == loop._number]
