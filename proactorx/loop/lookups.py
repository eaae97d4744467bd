"""``loop.getaddrinfo`` and ``loop.getnameinfo`` on IO threads.

On stock asyncio they wait behind whatever keeps the executor's workers busy;
here a full executor delays no connection.
"""

from __future__ import annotations

import socket
from typing import Any

from proactorx.loop.threads import Threads


class Lookups(Threads):
    """The names family of ``AbstractEventLoop``."""

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
        """Resolve a host name on an IO thread, getaddrinfo(3); arguments and result of
        ``socket.getaddrinfo``.

        Raises:
            socket.gaierror: the name cannot be resolved.
            RuntimeError: the loop is closed.
        """
        look: Any = socket.getaddrinfo
        if self.get_debug():
            look = self._getaddrinfo_debug  # type: ignore[attr-defined]  # asyncio's own: logs slow ones
        return await self.io_pool.call(self, look, host, port, family, type, proto, flags)

    async def getnameinfo(self, sockaddr: Any, flags: int = 0) -> tuple[str, str]:
        """Look up the name of an address on an IO thread, getnameinfo(3); arguments and result of
        ``socket.getnameinfo``.

        Raises:
            socket.gaierror: the address has no name, and `flags` demands one.
            RuntimeError: the loop is closed.
        """
        found: tuple[str, str] = await self.io_pool.call(self, socket.getnameinfo, sockaddr, flags)
        return found
