import asyncio
from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from typing import Any

from _typeshed import ReadableBuffer, WriteableBuffer

from proactorx.files.binary import AsyncBinary

class AsyncFileIO(AsyncBinary):
    async def read(self, *args: int | None) -> bytes: ...
    async def readinto(self, buffer: WriteableBuffer) -> int: ...
    async def readall(self) -> bytes: ...
    async def write(self, data: ReadableBuffer) -> int: ...
    async def writelines(self, lines: Iterable[ReadableBuffer]) -> None: ...

class AsyncIndirectFileIO(AsyncFileIO):
    def __init__(
        self,
        name: str,
        loop: asyncio.AbstractEventLoop | None,
        executor: Executor | None,
        indirect: Callable[[], Any],
    ) -> None: ...
