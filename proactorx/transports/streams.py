"""The streams of our loops: asyncio's reader, writer and protocol with compiled steps.

``asyncio.start_server`` has a reader and a protocol made for each connection.  Where these would be exactly
asyncio's, they are made of the classes here: subclasses that look like their bases.  A reader and a protocol
that are given to ``create_connection``, as ``open_connection`` does, become instances of these.  Their
coroutines are ordinary ones, because an ``async def`` of Python costs less to await than one of a compiled
module; what they do is compiled (``read_state``).  A method that was replaced, in a class or in one reader,
is called as ever.

``PROACTORX_STREAMS=stock`` in the environment leaves everything to asyncio.
"""

from __future__ import annotations

import copyreg
import os
import sys
import types
from asyncio import exceptions, streams
from collections.abc import Callable
from typing import Any

from proactorx.sys.python import FREE_THREADED
from proactorx.transports import read_state
from proactorx.transports.read_state import ReadState

Reader = streams.StreamReader
Protocol = streams.StreamReaderProtocol
Writer = streams.StreamWriter

_BUFFER = "_buffer _eof _wait_for_data _maybe_resume_transport"
_UNTIL = "exceptions LimitOverrunError IncompleteReadError ValueError _exception _limit len find " + _BUFFER
_LINE = (
    "readuntil partial consumed args startswith clear len exceptions IncompleteReadError LimitOverrunError"
)
_FEED = "_eof _buffer extend _wakeup_waiter _transport _paused len _limit pause_reading NotImplementedError"
_WAIT = "_waiter RuntimeError _eof _paused _transport resume_reading _loop create_future"
_EXACT = "exceptions IncompleteReadError ValueError _exception len " + _BUFFER
#: The names that the methods used when the steps were written (Python 3.11 to 3.15), of each version.
_KNOWN: dict[str, dict[str, tuple[str, ...]]] = {
    "StreamReader": {
        "read": (
            "_exception read _limit append join bytes memoryview " + _BUFFER,
            "_exception read _limit append join bytes " + _BUFFER,
            "_exception read _limit bytearray take_bytes min len " + _BUFFER,
        ),
        "readline": (_LINE + " _buffer _maybe_resume_transport ValueError",),
        "readuntil": (
            _UNTIL + " bytes clear",
            _UNTIL + " bytes clear isinstance tuple sorted max",
            _UNTIL + " take_bytes isinstance tuple sorted max",
        ),
        "readexactly": (
            _EXACT + " bytes clear",
            _EXACT + " bytes clear memoryview",
            _EXACT + " take_bytes",
        ),
        "at_eof": ("_eof _buffer",),
        "_wait_for_data": (_WAIT,),
        "_maybe_resume_transport": ("_paused len _buffer _limit _transport resume_reading",),
        "feed_data": (_FEED,),
        "feed_eof": ("_eof _wakeup_waiter",),
        "_wakeup_waiter": ("_waiter cancelled set_result",),
    },
    "StreamWriter": {"drain": ("_reader exception _transport is_closing sleep _protocol _drain_helper",)},
    "StreamReaderProtocol": {
        "data_received": ("_stream_reader feed_data",),
        "_drain_helper": (
            "_connection_lost ConnectionResetError _paused _loop create_future _drain_waiters append remove",
        ),
    },
}
#: Of a reader: what our steps do without asking, so that a replacement of it has to be noticed.
_STEPS = frozenset(_KNOWN["StreamReader"])
#: In the order in which asyncio sets them.
_ATTRIBUTES = ("_limit", "_loop", "_buffer", "_eof", "_waiter", "_exception", "_transport", "_paused")
_FACTORY = ("client_connected_cb", "limit", "loop")


def _factories() -> frozenset[Any]:
    """The code of the functions that ``start_server`` and ``start_unix_server`` make protocols with."""
    makers = (getattr(streams, name, None) for name in ("start_server", "start_unix_server"))
    return frozenset(
        code
        for maker in makers
        for code in getattr(getattr(maker, "__code__", None), "co_consts", ())
        if getattr(code, "co_freevars", ()) == _FACTORY
        and set(code.co_names) == {"StreamReader", "StreamReaderProtocol"}
    )


def _unknown() -> str:
    """What of this Python's ``asyncio.streams`` the steps were not written for, in words; or ""."""
    for kind, methods in _KNOWN.items():
        for name, known in methods.items():
            code = getattr(getattr(getattr(streams, kind), name), "__code__", None)
            if code is None or set(code.co_names) not in [set(names.split()) for names in known]:
                return f"asyncio.{kind}.{name} of this Python is unknown"
    if not _FACTORIES:
        return "asyncio.start_server of this Python is unknown"
    return ""


_FACTORIES = _factories()


def _why_stock() -> str:
    word = os.environ.get("PROACTORX_STREAMS") or "compiled"
    if word == "stock":
        return "stock: named by $PROACTORX_STREAMS"
    if word != "compiled":
        return f"stock: $PROACTORX_STREAMS is {word!r}, neither compiled nor stock"
    unknown = _unknown()
    return f"stock: {unknown}" if unknown else ""


def _kept(name: str) -> Any:
    """An attribute of asyncio's reader that is kept in its state."""

    def get(self: Any) -> Any:
        return getattr(self._state, name)

    def put(self: Any, value: Any) -> None:
        setattr(self._state, name, value)

    return property(get, put)


class CompiledReader(Reader):
    """asyncio's ``StreamReader``, with its attributes in a ``ReadState``."""

    __slots__ = ("_state",)

    _state: ReadState

    def __init__(self, limit: int, loop: Any) -> None:
        object.__setattr__(self, "_state", ReadState(loop, limit))

    _buffer = property(lambda self: self._state.show(), lambda self, value: self._state.put(value))
    _limit = property(lambda self: self._state.get_limit(), lambda self, value: self._state.set_limit(value))
    _loop = _kept("loop")
    _eof = _kept("eof")
    _paused = _kept("paused")
    _waiter = _kept("waiter")
    _exception = _kept("exception")
    _transport = _kept("transport")

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _STEPS:
            self._state.replaced = True
        object.__setattr__(self, name, value)

    def __reduce_ex__(self, protocol: Any) -> Any:
        # A copy is asyncio's own, and what cannot be pickled is the loop.
        make: Any = getattr(copyreg, "__newobj__")  # noqa: B009 - typeshed leaves it out
        return make, (Reader,), {name: getattr(self, name) for name in _ATTRIBUTES}

    def __repr__(self) -> str:
        state = self._state
        shown = state.shown
        try:
            return Reader.__repr__(self)
        finally:
            if not shown:
                state.hide()

    def feed_data(self, data: Any) -> None:
        """Keep what has come."""
        if self._state.feed(data) is NotImplemented:
            Reader.feed_data(self, data)

    def feed_eof(self) -> None:
        """Note that nothing more comes."""
        if self._state.end() is NotImplemented:
            Reader.feed_eof(self)

    def at_eof(self) -> bool:
        """Whether nothing is there and nothing will come."""
        state = self._state
        return state.at_eof() if state.unreplaced() else Reader.at_eof(self)

    async def read(self, n: int = -1) -> bytes:
        """Read at most `n` bytes, or all until the end."""
        state = self._state
        data = state.take(n)
        if data is None:
            await state.wait("read")
            return state.took(n)
        if data is NotImplemented:
            return await Reader.read(self, n)
        return data  # type: ignore[no-any-return]  # a cast is a call

    async def readexactly(self, n: int) -> bytes:
        """Read `n` bytes."""
        state = self._state
        data = state.take_exactly(n, False)
        while data is None:
            await state.wait("readexactly")
            data = state.take_exactly(n, True)
        if data is NotImplemented:
            return await Reader.readexactly(self, n)
        return data  # type: ignore[no-any-return]  # a cast is a call

    async def readuntil(self, separator: Any = b"\n") -> bytes:
        """Read up to a separator and that."""
        state = self._state
        data = state.take_until(separator, 0, False)
        while data.__class__ is int:
            await state.wait("readuntil")
            data = state.take_until(separator, data, True)
        if data is NotImplemented:
            return await Reader.readuntil(self, separator)
        return data  # type: ignore[no-any-return]  # a cast is a call

    async def readline(self) -> bytes:
        """Read a line."""
        state = self._state
        try:
            data = state.take_until(b"\n", 0, False)
            while data.__class__ is int:
                await state.wait("readuntil")
                data = state.take_until(b"\n", data, True)
        except exceptions.IncompleteReadError as error:
            return error.partial
        except exceptions.LimitOverrunError as error:
            state.drop_line(error.consumed)
            raise ValueError(error.args[0])  # noqa: B904 - as asyncio's own
        if data is NotImplemented:
            return await Reader.readline(self)
        return data  # type: ignore[no-any-return]  # a cast is a call


class CompiledWriter(Writer):
    """asyncio's ``StreamWriter``, whose ``drain`` asks nobody where nothing can wait."""

    __slots__ = ()

    _protocol: Any
    _reader: Any
    _transport: Any

    async def drain(self) -> None:
        """Wait until more may be written."""
        reader = self._reader
        protocol = self._protocol
        if (
            reader.__class__ not in _READERS
            or protocol._paused
            or protocol._connection_lost
            or not reader._state.quiet()
            or self._transport.is_closing()
        ):
            await Writer.drain(self)


class _Replaceable:
    """A method of the protocol; the reader's state is told where an instance gets another one."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._method = getattr(Protocol, name)

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        found = None if instance is None else vars(instance).get(self._name)
        return found or getattr(Protocol, self._name).__get__(instance, owner)

    def __set__(self, instance: Any, value: Any) -> None:
        vars(instance)[self._name] = value
        if instance._stream_reader is not None:
            instance._stream_reader._state.replaced = True

    def __delete__(self, instance: Any) -> None:
        if self._name not in vars(instance):
            raise AttributeError(self._name)
        del vars(instance)[self._name]


class CompiledProtocol(Protocol):
    """asyncio's ``StreamReaderProtocol``, which makes a writer of ours."""

    data_received: Any = _Replaceable("data_received")
    # asyncio's own, which makes a writer of ours.
    connection_made: Any = types.FunctionType(
        Protocol.connection_made.__code__,
        {**vars(streams), "StreamWriter": CompiledWriter},
        "connection_made",
    )


def _look_like(compiled: type, base: type) -> None:
    for name in ("__name__", "__qualname__", "__module__", "__doc__"):
        setattr(compiled, name, getattr(base, name))
    for name, value in vars(compiled).items():
        original = getattr(base, name, None)
        if isinstance(value, types.FunctionType) and isinstance(original, types.FunctionType):
            value.__qualname__ = original.__qualname__
            value.__module__ = original.__module__
            value.__doc__ = original.__doc__


for _compiled, _base in (
    (CompiledReader, Reader),
    (CompiledWriter, Writer),
    (CompiledProtocol, Protocol),
):
    _look_like(_compiled, _base)

#: What an object of asyncio's own class becomes: it has no slot, and keeps its state in its dictionary.
ConvertedReader: Any = type(
    "StreamReader",
    (Reader,),
    {
        **{name: value for name, value in vars(CompiledReader).items() if name not in ("_state", "__init__")},
        "__slots__": (),
    },
)
_READERS = (CompiledReader, ConvertedReader)

_CLASSES = (Reader, CompiledReader, ConvertedReader, Protocol, CompiledProtocol, streams.FlowControlMixin)
_NAMES = (*_STEPS, "data_received", "_stream_reader", "__init__", "connection_made")


def _look() -> list[Any]:
    return [vars(kind).get(name) for kind in _CLASSES for name in _NAMES]


_MADE = _look()


def _unchanged() -> bool:
    return _look() == _MADE


read_state.watch(CompiledReader, ConvertedReader, CompiledProtocol, _unchanged)

#: "compiled", or "stock: " and why.
MODE = _why_stock() or "compiled"


#: Where giving an object another class stops all threads, it costs more than it saves.
_CONVERTS = not FREE_THREADED


def convert(protocol: Any) -> None:
    """Make compiled streams of `protocol` and its reader, if they are exactly asyncio's own."""
    if type(protocol) is not Protocol or not _CONVERTS or MODE != "compiled" or not read_state.is_intact():
        return
    reader = protocol._stream_reader  # type: ignore[attr-defined]
    if type(reader) is not Reader or reader._loop.get_debug():  # type: ignore[attr-defined]
        return
    attributes = vars(reader)
    if attributes.keys() != set(_ATTRIBUTES) or "data_received" in vars(protocol):
        return
    limit, loop, buffer, *rest = (attributes.pop(name) for name in _ATTRIBUTES)
    state = ReadState(loop, limit)
    state.eof, state.waiter, state.exception, state.transport, state.paused = rest
    if buffer or sys.getrefcount(buffer) > _ALONE:
        state.put(buffer)
    attributes["_state"] = state
    reader.__class__ = ConvertedReader
    protocol.__class__ = CompiledProtocol


def _references() -> int:
    """What `sys.getrefcount` says of an object that nobody else knows."""
    (buffer,) = (value.pop() for value in ([bytearray()],))
    return sys.getrefcount(buffer)


_ALONE = _references()


def serving(factory: Callable[[], Any]) -> Callable[[], Any]:
    """Return what makes the protocols of a server: for ``start_server``, ours instead of asyncio's."""
    if MODE != "compiled" or getattr(factory, "__code__", None) not in _FACTORIES:
        return factory
    values = {
        name: cell.cell_contents for name, cell in zip(_FACTORY, factory.__closure__ or (), strict=True)
    }
    callback, limit, loop = (values[name] for name in _FACTORY)

    def make() -> Any:
        if (
            not read_state.is_intact()
            or streams.StreamReader is not Reader
            or streams.StreamReaderProtocol is not Protocol
            or streams.StreamWriter is not Writer
            or loop.get_debug()
        ):
            return factory()
        return CompiledProtocol(CompiledReader(limit, loop), callback, loop)

    return make
