"""``loop.sendfile`` and ``loop.sock_sendfile`` on Windows: TransmitFile,
the kernel reads the file and sends it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Callable
from typing import Any

from proactorx.ops.constants import TRANSMIT
from proactorx.ops.op import Overlapped
from proactorx.sys.errors import strerror

if sys.platform == "win32":
    import msvcrt

#: Bytes in one call: a cancelled one tells of what it has sent only when it ends.
CHUNK = 1 << 20


class Transmission:
    """The part of a file of the C library's, `number`, that is to be sent.

    Raises:
        asyncio.SendfileNotAvailableError: another driver cannot send it so.
    """

    def __init__(self, loop: Any, number: int, offset: int, count: int | None) -> None:
        if loop.backend_info().name != "iocp":
            raise asyncio.SendfileNotAvailableError("TransmitFile is not available on this driver")
        size = os.fstat(number).st_size
        self._number = number
        self._handle = msvcrt.get_osfhandle(number)  # type: ignore[attr-defined, name-defined, unused-ignore]
        self._loop = loop
        self._offset = offset
        self._left = max(size - offset, 0) if count is None else min(max(size - offset, 0), count)
        self._sent = 0

    async def send(self, target: Callable[[], int]) -> int:
        """Send it; `target` is asked for the socket before each call.  How many bytes were sent."""
        target()  # refuses also where there is nothing to send
        while self._left > 0:
            sent = await self._send_some(target())
            if not sent:
                break  # the file has become shorter
        self._set_position()
        return self._sent

    async def _send_some(self, sock: int) -> int:
        ended, over = self._loop.create_future(), self._loop.create_future()

        def on_done(op: Overlapped) -> None:
            self._sent += op.nbytes
            self._left -= op.nbytes
            if ended.cancelled():
                with contextlib.suppress(OSError):  # closed by now
                    self._set_position()
            for future in (ended, over):
                if not future.done() and not self._loop.is_closed():  # who waits is not run again then
                    future.set_result(None)

        size, position = min(CHUNK, self._left), self._offset + self._sent
        op = Overlapped(TRANSMIT, sock, size=size, events=self._handle, position=position, on_done=on_done)
        try:
            self._loop._port.start(op)
        except OSError as exc:
            raise asyncio.SendfileNotAvailableError("TransmitFile failed") from exc
        try:
            await ended
        except asyncio.CancelledError:
            self._loop._port.stop(op)
            await over  # it says how much has gone
            raise
        if op.error:
            self._set_position()
            error = OSError(op.error, strerror(op.error))
            if not self._sent and not isinstance(error, ConnectionError):
                raise asyncio.SendfileNotAvailableError("TransmitFile failed") from error
            raise error
        return op.nbytes

    def _set_position(self) -> None:
        os.lseek(self._number, self._offset + self._sent, os.SEEK_SET)
