"""Pipe transports of Windows: overlapped ReadFile and WriteFile on handles.

At most one read and one write are in flight, and each owns its memory. Windows reports the end of a pipe as
an error (ERROR_BROKEN_PIPE); an empty message is not the end. A transport that only writes also reads if the
handle allows it, to learn when the other side closes.

The handle belongs to the object that was passed in (``asyncio.windows_utils.PipeHandle`` or similar). The
transport closes that object after the last op on the handle has ended.
"""

from __future__ import annotations

import asyncio
import contextvars
import errno
import logging
import warnings
from asyncio import constants, futures, transports
from typing import Any

from proactorx.ops.constants import RECV, SEND
from proactorx.ops.op import Overlapped
from proactorx.port.loop_port import LoopPort
from proactorx.sys.errors import strerror

logger: logging.Logger = logging.getLogger("asyncio")

READ_SIZE = 65536
#: How much a transport that only writes reads: it expects nothing.
WATCH_SIZE = 16
#: The errors of a read whose other side is closed.
_GONE = (errno.EPIPE, errno.ECONNABORTED)


class PipeTransport(transports._FlowControlMixin, asyncio.Transport):
    """One end of a named pipe, for both directions or one."""

    _loop: Any
    _protocol: Any
    _protocol_paused: bool
    reads = True

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        port: LoopPort,
        pipe: Any,
        protocol: asyncio.BaseProtocol,
        *,
        extra: dict[str, Any] | None = None,
    ) -> None:
        super().__init__({"pipe": pipe, **(extra or {})}, loop)
        self._port = port
        self._pipe = pipe
        self._fd: int = pipe.fileno()
        self._protocol = protocol
        self._queue: list[bytes] = []
        self._size = 0
        self._reading: Overlapped | None = None
        self._writing: Overlapped | None = None
        self._paused = False
        self._kept: bytes | None = None  # what a read has brought while reading was paused
        self._at_end = False
        self._context = contextvars.copy_context()  # callbacks run in it
        self._closing = False
        self._lost = False
        self._told = False
        self._refused = 0

    # ------------------------------------------------------------------------------------- what users ask for

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Set the protocol to call from now on."""
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Return the current protocol."""
        protocol: asyncio.BaseProtocol = self._protocol
        return protocol

    def is_closing(self) -> bool:
        """Return whether the transport is closing or closed."""
        return self._closing

    def is_reading(self) -> bool:
        """Return whether the transport reads: it is neither closing nor paused."""
        return self.reads and not self._closing and not self._paused

    def get_write_buffer_size(self) -> int:
        """Return the number of bytes in the write buffer."""
        return self._size

    def __repr__(self) -> str:
        state = "closed" if self._told else "closing" if self._closing else "open"
        return f"<{type(self).__name__} {state} handle={self._fd} bufsize={self._size}>"

    # ------------------------------------------------------------------------------------------------ reading

    def start(self, waiter: asyncio.Future[Any] | None = None) -> None:
        """Call ``connection_made``, start to read, then set the result of `waiter`."""
        self._loop.call_soon(self._protocol.connection_made, self)
        self._loop.call_soon(self._read)
        if waiter is not None:
            wake = futures._set_result_unless_cancelled  # type: ignore[attr-defined]
            self._loop.call_soon(wake, waiter, None)

    def _read(self) -> None:
        if self._reading is None and not self._closing and not self._paused:
            size = READ_SIZE if self.reads else WATCH_SIZE
            self._reading = self._port.start(Overlapped(RECV, self._fd, size=size, on_done=self._on_received))

    def _on_received(self, op: Overlapped) -> None:
        self._context.run(self._received, op)

    def _received(self, op: Overlapped) -> None:
        data: Any = None if op.error else op.result()
        self._reading = None
        if self._closing or self._loop.is_closed():
            self._release()
        elif not self.reads:
            self._watched(op)
        elif op.error in _GONE:
            self._at_end = True
            if not self._paused:
                self._end()
        elif op.error:
            self._fatal_error(OSError(op.error, strerror(op.error)), "Fatal read error on pipe transport")
        elif self._paused:
            self._kept = data
        else:
            self._give(data)
            self._read()

    def _give(self, data: bytes) -> None:
        if not data:
            return
        try:
            self._protocol.data_received(data)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self._fatal_error(exc, "Fatal error: protocol.data_received() call failed.")

    def _end(self) -> None:
        try:
            keep_open = self._protocol.eof_received()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self._fatal_error(exc, "Fatal error: protocol.eof_received() call failed.")
            return
        if not keep_open:
            self.close()

    def _watched(self, op: Overlapped) -> None:
        if op.error in _GONE:
            self._force_close(BrokenPipeError(errno.EPIPE, strerror(errno.EPIPE)) if self._size else None)
        elif not op.error:
            self._read()  # bytes that nobody wants
        # Else it may not be read: the next write will tell.

    def pause_reading(self) -> None:
        """Stop calling ``data_received`` until ``resume_reading``. No effect if paused or closing."""
        if not self._closing:
            self._paused = True

    def resume_reading(self) -> None:
        """Undo ``pause_reading``. Bytes that were read meanwhile are delivered first."""
        if self._closing or not self._paused:
            return
        self._paused = False
        self._loop.call_soon(self._resumed)

    def _resumed(self) -> None:
        if self._paused or self._closing:
            return
        kept, self._kept = self._kept, None
        if kept:
            self._give(kept)
        if not self._at_end:
            self._read()
        elif not self._paused and not self._closing:
            self._end()

    # ------------------------------------------------------------------------------------------------ writing

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send `data`; anything mutable may be changed after the call.

        Raises:
            TypeError: `data` is not bytes, bytearray or memoryview.
        """
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(f"data argument must be a bytes-like object, not {type(data).__name__!r}")
        if not data:
            return
        if self._closing:
            if self._refused >= constants.LOG_THRESHOLD_FOR_CONNLOST_WRITES:
                logger.warning("pipe closed by peer or write(pipe, data) raised exception.")
            self._refused += 1
            return
        piece = bytes(data)
        self._queue.append(piece)
        self._size += len(piece)
        if self._writing is None:
            self._write()
        pause = self._maybe_pause_protocol  # type: ignore[attr-defined]
        try:
            self._context.run(pause)
        except RuntimeError:
            pause()  # one of its callbacks is running in that context

    def _write(self) -> None:
        data = self._queue[0] if len(self._queue) == 1 else b"".join(self._queue)
        self._queue.clear()
        self._writing = self._port.start(Overlapped(SEND, self._fd, data=data, on_done=self._on_written))

    def _on_written(self, op: Overlapped) -> None:
        self._context.run(self._written, op)

    def _written(self, op: Overlapped) -> None:
        self._writing = None
        self._size -= op.nbytes
        if op.error and not self._lost and not self._loop.is_closed():
            self._size = 0
            self._queue.clear()
            self._fatal_error(OSError(op.error, strerror(op.error)), "Fatal write error on pipe transport")
        elif self._queue and not self._lost:
            self._write()
        if self._lost or self._loop.is_closed():
            self._release()
            return
        self._maybe_resume_protocol()  # type: ignore[attr-defined]
        if self._closing and not self._size:
            self._lose(None)

    def can_write_eof(self) -> bool:
        """Return False: both directions of a duplex pipe close together."""
        return False

    def write_eof(self) -> None:
        """Raise NotImplementedError: both directions of a duplex pipe close together.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError("write_eof: a named pipe cannot be closed in one direction")

    # ------------------------------------------------------------------------------------------------- ending

    def close(self) -> None:
        """Stop reading, write the buffer, then call ``connection_lost(None)``.

        A second call has no effect.
        """
        if self._closing:
            return
        if self._loop.is_closed():
            self._force_close(None)
            return
        self._closing = True
        if self._reading is not None:
            self._port.stop(self._reading)
        if not self._size:
            self._lose(None)

    def abort(self) -> None:
        """Discard the write buffer and call ``connection_lost(None)``."""
        self._force_close(None)

    def _fatal_error(self, exc: BaseException, message: str) -> None:
        if isinstance(exc, OSError):
            if self._loop.get_debug():
                logger.debug("%r: %s: %s", self, message, exc)
        else:
            self._loop.call_exception_handler(
                {"message": message, "exception": exc, "transport": self, "protocol": self._protocol}
            )
        self._force_close(exc)

    def _force_close(self, exc: BaseException | None) -> None:
        if self._lost:
            return
        self._closing = True
        self._queue.clear()
        if self._loop.is_closed():  # with all ops; nobody can be called any more
            self._lost = self._told = True
            self._size = 0
            self._release()
            return
        for op in (self._reading, self._writing):
            if op is not None:
                self._port.stop(op)
        self._lose(exc)

    def _lose(self, exc: BaseException | None) -> None:
        if not self._lost:
            self._lost = True
            self._loop.call_soon(self._call_connection_lost, exc)

    def _call_connection_lost(self, exc: BaseException | None) -> None:
        try:
            self._protocol.connection_lost(exc)
        finally:
            self._told = True
            self._release()

    def _release(self) -> None:
        """Close the handle if the connection is lost and no op uses it."""
        if self._fd >= 0 and self._told and self._reading is None and self._writing is None:
            fd, self._fd = self._fd, -1
            self._port.forget(fd)
            self._pipe.close()

    def __del__(self) -> None:
        if getattr(self, "_fd", -1) >= 0:
            try:
                warnings.warn(f"unclosed transport {self!r}", ResourceWarning, stacklevel=1, source=self)
            finally:  # also where warnings are errors
                self._fd = -1
                self._pipe.close()


class ReadPipeTransport(PipeTransport, asyncio.ReadTransport):
    """The reading end of a pipe."""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Raise NotImplementedError: the transport only reads.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError("write: this is the reading end of a pipe")


class WritePipeTransport(PipeTransport, asyncio.WriteTransport):
    """The writing end of a pipe."""

    reads = False

    def is_reading(self) -> bool:
        """Raise NotImplementedError: the transport only writes."""
        raise NotImplementedError

    def pause_reading(self) -> None:
        """Raise NotImplementedError: the transport only writes."""
        raise NotImplementedError

    def resume_reading(self) -> None:
        """Raise NotImplementedError: the transport only writes."""
        raise NotImplementedError

    def can_write_eof(self) -> bool:
        """Return True: ``write_eof`` closes the pipe."""
        return True

    def write_eof(self) -> None:
        """Close the pipe, as ``close`` does."""
        self.close()
