"""The two pools of a loop: IO threads for what blocks inside the loop's own methods,
workers for ``run_in_executor``.

Neither can keep the other waiting.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import TypeVar, TypeVarTuple

from proactorx.pool import IOThreadPool
from proactorx.pool.core import name_this_thread

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")


class Threads(asyncio.BaseEventLoop):
    """``io_pool``, and the names of the workers."""

    _io_pool: IOThreadPool | None = None

    # BaseEventLoop's own, which typeshed leaves out.
    _default_executor: Executor | None
    _executor_shutdown_called: bool

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[*_Ts], _T], *args: *_Ts
    ) -> asyncio.Future[_T]:
        """Run ``func(*args)`` in an executor.

        Args:
            executor: a ``concurrent.futures.Executor``; None: the loop's default one, with threads named
                proactorx-worker-N.
            func: what to call.
            *args: its arguments.

        Returns:
            A future of the result.

        Raises:
            RuntimeError: the loop is closed, or its default executor has been shut down.
        """
        if executor is None and self._default_executor is None and not self._executor_shutdown_called:
            self._check_closed()  # type: ignore[attr-defined]
            self._default_executor = _workers()
        return super().run_in_executor(executor, func, *args)

    @property
    def io_pool(self) -> IOThreadPool:
        """The ``IOThreadPool`` of the loop: created at the first use, closed with the loop.

        Raises:
            RuntimeError: the loop is closed.
        """
        if self._io_pool is None:
            if self.is_closed():
                raise RuntimeError("Event loop is closed")
            made = IOThreadPool(backend=self._choice.info.name)  # type: ignore[attr-defined]
            vars(self).setdefault("_io_pool", made)  # one, whichever thread comes first
        assert self._io_pool is not None
        return self._io_pool

    def _close_threads(self) -> None:
        # What runs is not waited for: a resolver may take minutes.
        if self._io_pool is not None:
            self._io_pool.close(wait=False, cancel_queued=True)
        results = getattr(self, "_proactorx_results", None)
        if results is not None:
            results.close()


def _workers() -> ThreadPoolExecutor:
    numbers = itertools.count(1)

    def begin() -> None:
        name = f"proactorx-worker-{next(numbers)}"
        threading.current_thread().name = name
        name_this_thread(name)

    return ThreadPoolExecutor(thread_name_prefix="proactorx-worker", initializer=begin)
