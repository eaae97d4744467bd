"""The two pools of a loop: IO threads for what blocks inside the loop's own methods, workers for ``run_in_executor``.

Neither can keep the other waiting.
"""

from __future__ import annotations

import asyncio
import threading

from proactorx.pool import IOThreadPool

_making = threading.Lock()


class Threads(asyncio.BaseEventLoop):
    """``io_pool``."""

    _io_pool: IOThreadPool | None = None

    @property
    def io_pool(self) -> IOThreadPool:
        """The loop's IO threads: an ``IOThreadPool``, made when it is first asked for and closed with the loop.

        Raises:
            RuntimeError: the loop is closed.
        """
        if self._io_pool is None:
            with _making:
                if self.is_closed():
                    raise RuntimeError("Event loop is closed")
                if self._io_pool is None:
                    self._io_pool = IOThreadPool()
        return self._io_pool

    def _close_threads(self) -> None:
        # What runs is not waited for: a resolver may take minutes.
        with _making:
            pool = self._io_pool
        if pool is not None:
            pool.close(wait=False, cancel_queued=True)
        completions = getattr(self, "_proactorx_completions", None)
        if completions is not None:
            completions.close()
