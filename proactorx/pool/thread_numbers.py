"""Names of threads: ``proactorx-io-1`` and so on, the smallest free numbers of the process.

Linux shows 15 bytes of a name (``/proc/self/task/*/comm``), which is just what ``proactorx-io-64`` takes.
"""

from __future__ import annotations

import heapq
import os
import threading


class Numbers:
    """Hands out the smallest positive number that is free."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._free: list[int] = []
        self._last = 0

    def take(self) -> int:
        """A number; give it back."""
        with self._lock:
            if self._free:
                return heapq.heappop(self._free)
            self._last += 1
            return self._last

    def give_back(self, number: int) -> None:
        """The counterpart of ``take``."""
        with self._lock:
            heapq.heappush(self._free, number)

    def after_fork_in_child(self) -> None:
        """None of the parent's threads is here."""
        self.__init__()  # type: ignore[misc]


io_threads: Numbers = Numbers()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=io_threads.after_fork_in_child)
