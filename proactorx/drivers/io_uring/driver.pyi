import logging
from typing import TypedDict, type_check_only

from proactorx.drivers.readiness.epollset import EpollSet

logger: logging.Logger

# What the ring of a driver is; empty until there is one.
@type_check_only
class RingDescription(TypedDict, total=False):
    entries: int
    completions: int
    multishot: bool
    streams: bool
    restricted: bool
    setup_flags: tuple[str, ...]
    features: tuple[str, ...]

class UringDriver(EpollSet):
    def __init__(
        self,
        *,
        entries: int = 256,
        cq_entries: int = 0,
        multishot: bool = True,
        streams: bool = True,
        shared: bool = False,
        restricted: bool = False,
    ) -> None: ...
    @property
    def entries(self) -> int: ...
    @property
    def cq_entries(self) -> int: ...
    @property
    def in_flight(self) -> int: ...
    @property
    def rebuilds(self) -> int: ...
    @property
    def starved(self) -> int: ...
    @property
    def overflows(self) -> int: ...
    def describe(self) -> RingDescription: ...
