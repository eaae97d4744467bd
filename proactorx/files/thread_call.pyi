import asyncio
from collections.abc import Callable
from typing import Any, TypeVar, TypeVarTuple

from proactorx.files.access import Access

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")

class ThreadCall:
    @property
    def future(self) -> asyncio.Future[Any]: ...

async def in_thread(
    access: Access, fn: Callable[[*_Ts], _T], *args: *_Ts, orphan: Callable[[_T], object] | None = None
) -> _T: ...
def read_at(stack: Any, name: str, args: tuple[Any, ...]) -> tuple[int | None, Any]: ...
