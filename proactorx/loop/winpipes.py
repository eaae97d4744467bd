"""Pipes on Windows."""

from __future__ import annotations

import asyncio


class Pipes(asyncio.BaseEventLoop):
    """The pipe family of ``AbstractEventLoop``."""

    def _init_pipes(self) -> None:
        """Nothing is needed before the first pipe."""
