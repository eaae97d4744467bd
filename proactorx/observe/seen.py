"""What this room knows of a loop: the parts that it looks at, as a protocol."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from proactorx.drivers import Choice
    from proactorx.observe.details import Details
    from proactorx.pool import IOThreadPool
    from proactorx.port.loop_port import LoopPort
    from proactorx.transports.registry import Registry


class Seen(Protocol):
    """An event loop of this package."""

    _thread_id: int | None
    _number: int
    _thread_state: int
    _default_executor: Executor | None
    _choice: Choice

    @property
    def _io_pool(self) -> IOThreadPool | None: ...
    @property
    def _port(self) -> LoopPort: ...
    @property
    def _registry(self) -> Registry: ...
    @property
    def _native_id(self) -> int | None: ...
    def _figures(self) -> dict[str, Any]: ...
    def _turn_address(self) -> int: ...
    def _turn(self) -> tuple[int, int, int, int, int]: ...
    def _records(self) -> bytes: ...
    def _note_calls(self, on: bool) -> None: ...
    def _calls(self) -> Details | None: ...
    def _note_turns(self, length: int) -> None: ...
    def _called(self) -> Any: ...
