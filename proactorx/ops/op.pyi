from collections.abc import Callable
from typing import Any, Literal

from _typeshed import ReadableBuffer

class Op:
    @property
    def fd(self) -> int: ...
    @property
    def state_name(self) -> Literal["NEW", "IN_FLIGHT", "CANCELLING", "ORPHANED", "DONE"]: ...

class Watch(Op):
    def __init__(self, fd: int, events: int, callback: Callable[[], object]) -> None: ...

class Overlapped(Op):
    # That of an ACCEPT is called with each descriptor too.
    on_done: Callable[[Overlapped], object] | None
    def __init__(
        self,
        kind: int,
        fd: int,
        *,
        data: ReadableBuffer | None = None,
        size: int = 0,
        events: int = 0,
        address: bytes | None = None,
        on_done: Callable[[Overlapped], object] | None = None,
        position: int = -1,
        datasync: bool = False,
    ) -> None: ...
    @property
    def error(self) -> int: ...
    @property
    def address(self) -> bytes: ...
    @property
    def done(self) -> bool: ...
    @property
    def nbytes(self) -> int: ...
    def result(self) -> bytes | int | None: ...

CHECKED: bool

def take_step(op: Op, state: int) -> None: ...
def table() -> list[dict[str, Any]]: ...
