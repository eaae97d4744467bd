"""``proactorx.EventLoop``: the compiled loop core with asyncio's own machinery on top."""

from __future__ import annotations

import asyncio
import sys
import threading
import warnings
from asyncio import events
from collections.abc import AsyncGenerator, Callable
from typing import TYPE_CHECKING, Any

from proactorx import drivers
from proactorx.loop.connections import Connections
from proactorx.loop.core import FORKED, LoopCore
from proactorx.loop.missing import Missing
from proactorx.loop.pipes import Pipes
from proactorx.loop.processes import Processes
from proactorx.loop.readers import Readers
from proactorx.loop.sendfile import Sendfile
from proactorx.loop.signals import Signals
from proactorx.loop.sockets import Sockets
from proactorx.port.port import Port

if TYPE_CHECKING:
    from proactorx.drivers.driver import Driver


class EventLoop(Connections, Sendfile, Sockets, Pipes, Processes, Readers, Signals, Missing, LoopCore, asyncio.BaseEventLoop):
