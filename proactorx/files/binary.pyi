import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

from _typeshed import WriteableBuffer

from proactorx.files.positional import Positional

class AsyncBinary(Positional):
    def readable(self) -> bool: ...
    async def read(self, *args: int | None) -> bytes: ...
    async def readinto(self, buffer: WriteableBuffer) -> int: ...
    async def __anext__(self) -> bytes: ...

class AsyncBufferedIOBase(AsyncBinary):
    async def read1(self, *args: int | None) -> bytes: ...
    def detach(self) -> Any: ...
    @property
    def raw(self) -> Any: ...

class AsyncBufferedReader(AsyncBufferedIOBase):
    async def peek(self, *args: int) -> bytes: ...

class AsyncIndirectBufferedIOBase(AsyncBufferedIOBase):
    def __init__(
        self,
        name: str,
        loop: asyncio.AbstractEventLoop | None,
        executor: Executor | None,
        indirect: Callable[[], Any],
    ) -> None: ...

class AsyncIndirectBufferedReader(AsyncBufferedReader):
    def __init__(
        self,
        name: str,
        loop: asyncio.AbstractEventLoop | None,
        executor: Executor | None,
        indirect: Callable[[], Any],
    ) -> None: ...
