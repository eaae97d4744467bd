"""``wrap`` of a blocking function, as aiofiles has it: what it does, on IO threads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from functools import partial, wraps
from typing import Any, TypeAlias

from proactorx.files.access import access_for
from proactorx.files.thread_call import in_thread

#: A blocking function as a coroutine function.
Wrapped: TypeAlias = Callable[..., Coroutine[Any, Any, Any]]


def wrap(func: Callable[..., Any]) -> Wrapped:
    """A coroutine function that runs the blocking `func` on an IO thread.

    It takes the arguments of `func`, and ``loop`` and ``executor``: run it there instead.
    """

    @wraps(func)
    async def run(
        *args: Any,
        loop: asyncio.AbstractEventLoop | None = None,
        executor: Executor | None = None,
        **kwargs: Any,
    ) -> Any:
        return await in_thread(access_for(loop, executor), partial(func, *args, **kwargs))

    return run
