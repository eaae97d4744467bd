"""What this version does not have: refused by name, before anything is made that would have to be cleaned up."""

from __future__ import annotations

import asyncio
from typing import Any, NoReturn


def _missing(name: str) -> NoReturn:
    raise NotImplementedError(f"proactorx {_version()} has no loop.{name}()")


def _version() -> str:
    import proactorx

    return proactorx.__version__


class Missing(asyncio.BaseEventLoop):
    """Methods of ``AbstractEventLoop`` that are still to come."""

    async def create_datagram_endpoint(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Not in this version."""
        _missing("create_datagram_endpoint")

    async def sock_recvfrom(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Not in this version."""
        _missing("sock_recvfrom")

    async def sock_recvfrom_into(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Not in this version."""
        _missing("sock_recvfrom_into")

    async def sock_sendto(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Not in this version."""
        _missing("sock_sendto")
