"""How a running loop is seen from outside: ``stats``."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

from proactorx.observe.stats import LoopStats, stats_of

if TYPE_CHECKING:
    from proactorx.observe.seen import Seen


class Inspection(asyncio.BaseEventLoop):
    """What other threads may ask a loop that runs."""

    def stats(self) -> LoopStats:
        """Return counts, times and what is in flight now. Any thread may ask; the loop does not wait for it.

        Values are read one after the other while the loop goes on, so two of them can be a turn apart.
        """
        return stats_of(cast("Seen", self))
