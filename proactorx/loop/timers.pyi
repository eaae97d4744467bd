from collections.abc import Callable

from proactorx.loop.call_queue import CallQueue

class TimerQueue(CallQueue):
    def _own_clock(self) -> Callable[[], float] | None: ...

def time_fast(kind: type[TimerQueue]) -> None: ...
