"""The part of a subprocess transport that is the same on every system."""

from __future__ import annotations

import contextvars
import subprocess
import warnings
from asyncio import base_subprocess
from collections.abc import Callable
from typing import Any


class ChildTransport(base_subprocess.BaseSubprocessTransport):
    """asyncio's own subprocess transport. Subclasses start the child and send signals as the system does."""

    _loop: Any
    _proc: subprocess.Popen[bytes] | None
    _closed: bool
    _returncode: int | None
    _exit_waiters: Any
    _check_proc: Callable[[], None]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # Every callback runs in the context of the call that started the child.
        self._context = contextvars.copy_context()
        super().__init__(*args, **kwargs)

    def __del__(self, _warn: Any = warnings.warn) -> None:
        try:
            super().__del__(_warn)  # type: ignore[call-arg]  # typeshed's has none
        finally:  # also where warnings are errors
            if not self._closed:
                self.close()

    def _process_exited(self, returncode: int) -> None:
        self._context.run(super()._process_exited, returncode)
        # wait() returns when the child exits, even if a grandchild keeps its pipes open. Newer Pythons do
        # this themselves.
        for waiter in self._exit_waiters or ():
            if not waiter.done():
                waiter.set_result(returncode)
        if self._exit_waiters:
            self._exit_waiters.clear()
