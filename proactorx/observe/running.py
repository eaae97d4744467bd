"""Which loops of this process run now."""

from __future__ import annotations

import itertools
import os
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from proactorx.observe.seen import Seen


class Observer(Protocol):
    """What is told of each run of a loop, in the thread that runs it, and when a loop is closed."""

    def begins(self, loop: Seen) -> None: ...
    def ends(self, loop: Seen) -> None: ...
    def forget(self, loop: Seen) -> None: ...


#: The watchdog, from its import on: a program that watches no loop does not import it.
observer: Observer | None = None

_numbers = itertools.count(1)
_running: dict[int, Seen] = {}  # by id; each operation on it is atomic, with and without the GIL


def begins(loop: Seen) -> None:
    """`loop` runs from now on. It gets a number, by which others name it."""
    if not loop._number:
        loop._number = next(_numbers)
    _running[id(loop)] = loop
    if observer is not None:
        observer.begins(loop)


def ends(loop: Seen) -> None:
    """The counterpart."""
    # This before `observer` is read: whoever imports the watchdog later finds no thread to look at.
    loop._thread_state = 0
    if observer is not None:
        observer.ends(loop)
    _running.pop(id(loop), None)


def loops() -> tuple[Seen, ...]:
    """The loops that run now, in the order in which they began to."""
    return tuple(_running.copy().values())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_running.clear)  # they are the parent's
