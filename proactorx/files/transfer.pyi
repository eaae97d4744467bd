import asyncio

class FifoLock:
    async def wait(self, loop: asyncio.AbstractEventLoop) -> None: ...

class Transfer:
    @property
    def opened_at(self) -> tuple[str, int] | None: ...
