"""``loop.getaddrinfo`` and ``loop.getnameinfo`` on threads of their own.

On stock asyncio they wait behind whatever keeps the executor's workers busy; here a full executor delays no connection.
"""

from __future__ import annotations

import asyncio
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Any

#: Look-ups at a time, of one loop.  The resolver itself serialises much of its work, getaddrinfo(3).
THREADS = 8


class Lookups(asyncio.BaseEventLoop):
    """The names family of ``AbstractEventLoop``."""

    _io_threads: ThreadPoolExecutor | None = None

    async def _look_up(self, function: Any, *args: Any) -> Any:
        if self._io_threads is None:
            self._io_threads = ThreadPoolExecutor(THREADS, thread_name_prefix="proactorx-io")
        return await self.run_in_executor(self._io_threads, function, *args)

    async def getaddrinfo(
        self,
        host: bytes | str | None,
        port: bytes | str | int | None,
        *,
        family: int = 0,
        type: int = 0,
        proto: int = 0,
        flags: int = 0,
    ) -> Any:
        """``socket.getaddrinfo`` in a thread, with its result: getaddrinfo(3).

        Raises:
            socket.gaierror: the name cannot be resolved.
        """
        look: Any = socket.getaddrinfo
        if self.get_debug():
            look = self._getaddrinfo_debug  # type: ignore[attr-defined]  # asyncio's own: logs slow ones
        return await self._look_up(look, host, port, family, type, proto, flags)

    async def getnameinfo(self, sockaddr: Any, flags: int = 0) -> tuple[str, str]:
        """``socket.getnameinfo`` in a thread: getnameinfo(3).

        Raises:
            socket.gaierror: the address has no name, and `flags` wants one.
        """
        found: tuple[str, str] = await self._look_up(socket.getnameinfo, sockaddr, flags)
        return found

    def _close_lookups(self) -> None:
        # Those that run are not waited for: a resolver may take minutes.
        threads, self._io_threads = self._io_threads, None
        if threads is not None:
            threads.shutdown(wait=False, cancel_futures=True)
