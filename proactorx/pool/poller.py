"""The port behind ``IOThreadPool.bind``: one thread takes packets in batches, IO threads run the callbacks.

That thread runs no user code, so no callback that blocks can keep it from the next packet.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from proactorx.pool.jobs import name_this_thread

if TYPE_CHECKING:
    from proactorx.port.public import CompletionPort, Packet

#: Packets that are taken at a time.
BATCH = 256


class Poller:
    """A port whose packets are handed to `deliver`, each with its key, which is the callback.

    Raises:
        RuntimeError: the system refuses the thread.
        ValueError: an unknown backend.
        BackendError: the named backend cannot run here.
    """

    def __init__(self, backend: str | None, deliver: Callable[[Any, Packet], object]) -> None:
        from proactorx.port.public import CompletionPort

        self.port: CompletionPort = CompletionPort(1, backend)
        self._deliver = deliver
        self._thread = threading.Thread(target=self._serve, name="proactorx-poll", daemon=True)
        try:
            self._thread.start()
        except BaseException:
            self.port.close()
            raise

    def _serve(self) -> None:
        from proactorx.port.public import PortClosed

        name_this_thread("proactorx-poll")
        while True:
            try:
                packets = self.port.get_many(BATCH)
            except PortClosed:
                return
            for packet in packets:
                self._deliver(packet.key, packet)

    def close(self) -> None:
        """End the operations that are in flight; their packets are delivered too."""
        left = self.port.close()
        self._thread.join()
        for packet in left:
            self._deliver(packet.key, packet)
