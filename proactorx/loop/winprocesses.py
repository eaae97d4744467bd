"""Subprocesses on Windows."""

from __future__ import annotations

import asyncio


class Processes(asyncio.BaseEventLoop):
    """The subprocess family of ``AbstractEventLoop``."""

    def _init_processes(self) -> None:
        """Nothing is needed before the first process."""

    def _close_processes(self) -> None:
        """There are none."""
