"""A facility that the system refuses when it is opened: ``auto`` goes on with another one,
a name is an error.
"""

from __future__ import annotations

import asyncio
import errno
import itertools
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import proactorx
from proactorx import BackendError, drivers

SUPPORT = Path(__file__).parents[1] / "support"
HERE = tuple(found.name for found in drivers.probe_all() if found.available)

needs_io_uring = pytest.mark.skipif(
    not (drivers.probe("io_uring").available and drivers.probe("io_uring").suitable),
    reason="auto does not take io_uring here",
)


@pytest.fixture(autouse=True)
def _untouched_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("PROACTORX_BACKEND", "PROACTORX_URING_DISABLE"):
        monkeypatch.delenv(name, raising=False)
    yield
    drivers.probe.cache_clear()


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


@pytest.mark.parametrize("name", ["EMFILE", "ENFILE"])
def test_want_of_descriptors_is_the_programs_problem(name: str) -> None:
    """Every driver would have it."""
    error = _error(getattr(errno, name))
    for backend in ("auto", *HERE):
        choice = drivers.Choice(backend)
        before = choice.info
        with pytest.raises(OSError) as caught:
            choice.fall_back(error)
        assert caught.value is error
        assert choice.info is before


@pytest.mark.parametrize("name", HERE)
def test_a_named_driver_is_an_error_with_the_cause(name: str) -> None:
    choice = drivers.Choice(name)
    with pytest.raises(BackendError) as caught:
        choice.fall_back(_error(errno.ENOMEM))
    assert name in str(caught.value)
    assert os.strerror(errno.ENOMEM) in str(caught.value) or "ENOMEM" in str(caught.value)
    assert isinstance(caught.value.__cause__, OSError)


def test_auto_takes_one_after_the_other_and_remembers_why() -> None:
    choice = drivers.Choice("auto")
    order = [found.name for found in drivers.probe_all() if found.available and found.suitable]
    assert choice.info.name == order[0]
    for before, after in itertools.pairwise(order):
        driver = choice.fall_back(_error(errno.ENOMEM))
        assert driver is choice.driver
        assert driver.name == choice.info.name == after
        assert before in choice.info.rejected
        assert before in choice.info.reason
    with pytest.raises((BackendError, OSError)):
        choice.fall_back(_error(errno.ENOMEM))


@needs_io_uring
def test_a_loop_whose_ring_cannot_be_opened_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel itself refuses a ring without entries, io_uring_setup(2)."""
    from proactorx.drivers.io_uring.driver import UringDriver

    monkeypatch.setattr(
        "proactorx.drivers.io_uring.probe.make_driver", lambda *_, **__: UringDriver(entries=0)
    )
    loop = proactorx.new_event_loop()
    try:
        assert loop.backend_info().name == "io_uring"
        assert loop.run_until_complete(_talk()) == b"ping"
        info = loop.backend_info()
        assert info.name == "epoll"
        assert "EINVAL" in info.rejected["io_uring"]
        assert loop.run_until_complete(_talk()) == b"ping"
    finally:
        loop.close()
    named = proactorx.new_event_loop("io_uring")
    a, b = socket.socketpair()
    with a, b:
        a.setblocking(False)
        with pytest.raises(BackendError, match="EINVAL"):
            named.run_until_complete(named.sock_recv(a, 1))
    named.close()


@needs_io_uring
def test_a_loop_whose_first_operation_is_one_on_a_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from proactorx import files
    from proactorx.drivers.io_uring.driver import UringDriver

    async def write(name: str) -> None:
        async with files.open(tmp_path / name, "wb") as handle:
            await handle.write(b"x")
            await handle.fsync()

    with asyncio.Runner(loop_factory=proactorx.new_event_loop) as runner:
        runner.run(write("first"))  # the file system is known to be local now
    monkeypatch.setattr(
        "proactorx.drivers.io_uring.probe.make_driver", lambda *_, **__: UringDriver(entries=0)
    )
    with asyncio.Runner(loop_factory=proactorx.new_event_loop) as runner:
        runner.run(write("second"))
        info = runner.get_loop().backend_info()  # type: ignore[attr-defined]
        assert info.name == "epoll"
    assert (tmp_path / "second").read_bytes() == b"x"


async def _talk() -> bytes:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readexactly(4))
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"ping")
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        return answer


def _child(code: str, **environ: str) -> Any:
    """Run `code` in a fresh process; it prints JSON, which is returned."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("PROACTORX_")}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PRELUDE + code],
        env=inherited | environ | {"PYTHONPATH": os.pathsep.join([str(SUPPORT), *sys.path])},
        stdout=subprocess.PIPE,
        timeout=30,
        check=True,
    )
    return json.loads(done.stdout)


PRELUDE = """
import asyncio, json, logging, os, resource, sys
import proactorx
said = []
class Recorder(logging.Handler):
    def emit(self, record):
        said.append(record.getMessage())
log = logging.getLogger("proactorx")
log.addHandler(Recorder())
log.setLevel(logging.INFO)

async def talk():
    async def serve(reader, writer):
        writer.write(await reader.readexactly(4))
        writer.close()
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"ping")
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        return answer.decode()
"""

REFUSED_LATE = """
from refuse_io_uring import refuse
loop = proactorx.new_event_loop()
before = loop.backend_info().name
refuse(sys.argv[1] if len(sys.argv) > 1 else "ENOMEM")
try:
    answer = loop.run_until_complete(talk())
    again = loop.run_until_complete(talk())
except Exception as exc:
    answer = again = f"{type(exc).__name__}: {exc}"
info = loop.backend_info()
loop.close()
other = proactorx.new_event_loop()
third = other.run_until_complete(talk()) if not os.environ.get("PROACTORX_BACKEND") else ""
other.close()
print(json.dumps([before, answer, again, third, info.name, info.rejected, said]))
"""


@needs_io_uring
def test_a_ring_refused_after_the_probe() -> None:
    """As when the memory of a cgroup is used up by then."""
    before, answer, again, third, name, rejected, said = _child(REFUSED_LATE)
    assert before == "io_uring"
    assert answer == again == third == "ping"
    assert name == "epoll"
    assert "ENOMEM" in rejected["io_uring"]
    assert [line.split(" (")[0] for line in said] == ["proactorx: backend=epoll"]  # the only one at INFO


@needs_io_uring
def test_a_named_ring_refused_after_the_probe() -> None:
    _before, answer, _again, _third, name, _rejected, said = _child(
        REFUSED_LATE, PROACTORX_BACKEND="io_uring"
    )
    assert answer.startswith("BackendError: ")
    assert "ENOMEM" in answer
    assert name == "io_uring"
    assert said == []


NO_DESCRIPTORS = """
def limit(count):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))

def exhaust():
    limit(40)
    held = []
    try:
        while True:
            held.append(os.dup(0))
    except OSError:
        return held

def attempt(function):
    try:
        return function()
    except OSError as exc:
        return exc.errno

import socket
a, b = socket.socketpair()
a.setblocking(False)
found = []
warm = proactorx.new_event_loop("select")  # what has to be imported is imported
warm.run_until_complete(talk())
warm.close()
if PROBED:
    proactorx.new_event_loop().close()
held = exhaust()
loop = attempt(proactorx.new_event_loop)
if not isinstance(loop, int):
    coroutine = loop.sock_recv(a, 1)
    found.append(attempt(lambda: loop.run_until_complete(coroutine)))
    coroutine.close()
else:
    found.append(loop)
    loop = None
for fd in held:
    os.close(fd)
if loop is None:
    loop = proactorx.new_event_loop()
found.append(loop.run_until_complete(talk()))
found.append(loop.backend_info().name)
loop.close()
a.close()
b.close()
print(json.dumps(found))
"""


@pytest.mark.parametrize("probed", [False, True], ids=["at-the-probe", "at-the-open"])
@pytest.mark.parametrize("backend", ["auto", *HERE])
def test_no_descriptors_left(backend: str, probed: bool) -> None:
    """The error comes out, nothing is concluded from it, and with descriptors again the loop works."""
    code = NO_DESCRIPTORS.replace("PROBED", str(probed))
    error, answer, name = _child(code, PROACTORX_BACKEND=backend)
    assert error == errno.EMFILE
    assert answer == "ping"
    assert name == (drivers.Choice("auto").info.name if backend == "auto" else backend)


IMPORT_ALL = """
import importlib, pkgutil
names = [m.name for m in pkgutil.walk_packages(proactorx.__path__, "proactorx.")]
for name in names:
    if not name.endswith(("__main__", "_build")) and ".cli" not in name:
        importlib.import_module(name)
print(json.dumps(asyncio.run(talk()) if "STOCK" in os.environ else proactorx.run(talk())))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="seccomp is Linux's")
@pytest.mark.parametrize("backend", [name for name in HERE if name != "io_uring"])
def test_a_sandbox_that_kills(backend: str) -> None:
    """Importing everything, and running on another driver, makes no io_uring call."""
    launcher = SUPPORT / "refuse_io_uring.py"
    done = subprocess.run(
        [
            sys.executable,
            launcher,
            "--answer",
            "SIGSYS",
            sys.executable,
            "-W",
            "error",
            "-c",
            PRELUDE + IMPORT_ALL,
        ],
        env=os.environ
        | {"PROACTORX_BACKEND": backend, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdout=subprocess.PIPE,
        timeout=30,
        check=True,
    )
    assert json.loads(done.stdout) == "ping"
