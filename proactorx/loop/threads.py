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
from typing import Any, TypeVar, TypeVarTuple, cast

from proactorx.pool import IOThreadPool
from proactorx.pool.jobs import Jobs, name_this_thread

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")


class Threads(asyncio.BaseEventLoop):
    """``io_pool``, and the names of the workers."""

    _shared: dict[str, Any]

    # BaseEventLoop's own, which typeshed leaves out.
    _default_executor: Executor | None

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
        self._check_closed()  # type: ignore[attr-defined]
        if self._debug:  # type: ignore[attr-defined]
            self._check_callback(func, "run_in_executor")  # type: ignore[attr-defined]
        if executor is None:
            self._check_default_executor()  # type: ignore[attr-defined]
            executor = self._default_executor
            if executor is None:
                executor = self._default_executor = Workers()
            if type(executor) is Workers:
                func = executor.jobs.work(func)
        return asyncio.wrap_future(executor.submit(func, *args), loop=self)

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
            return cast("IOThreadPool", self._shared.setdefault("io_pool", made))
        return self._io_pool

    @property
    def _io_pool(self) -> IOThreadPool | None:
        """The pool; None where nobody has asked for it."""
        return self._shared.get("io_pool")

    def _close_threads(self) -> None:
        # What runs is not waited for: a resolver may take minutes.
        if self._io_pool is not None:
            self._io_pool.close(wait=False, cancel_queued=True)
        results = self._shared.get("_proactorx_results")
        if results is not None:
            results.close()


class Workers(ThreadPoolExecutor):
    """The default executor of a loop: its threads have names, and what they do is kept for who looks."""

    def __init__(self) -> None:
        jobs = Jobs()
        self.jobs: Jobs = jobs
        numbers = itertools.count(1)

        # Without `self`: threads keep this, and end when nobody has the executor any more.
        def begin() -> None:
            name = f"proactorx-worker-{next(numbers)}"
            threading.current_thread().name = name
            name_this_thread(name)
            jobs.enters(name)

        super().__init__(thread_name_prefix="proactorx-worker", initializer=begin)
