import logging
from typing import TypedDict, type_check_only

from proactorx.drivers.driver import Driver

logger: logging.Logger

# What the ring of a driver is; empty until there is one.
@type_check_only
class RingDescription(TypedDict, total=False):
    entries: int
    completions: int
    buffers: int
    buffer_size: int
    setup_flags: tuple[str, ...]
    features: tuple[str, ...]

class UringDriver(Driver):
    def __init__(
        self,
        *,
        entries: int = 256,
        cq_entries: int = 0,
        buffers: int = 64,
        buffer_size: int = 16384,
        multishot: bool = True,
        shared: bool = False,
    ) -> None: ...
    @property
    def rebuilds(self) -> int: ...
    @property
    def starved(self) -> int: ...
    def close(self) -> None: ...
    def after_fork_in_child(self) -> None: ...
    def describe(self) -> RingDescription: ...
