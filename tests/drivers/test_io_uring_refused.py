"""What a program sees where the kernel refuses io_uring: a child process under a real seccomp filter."""

from __future__ import annotations

import errno
import json
import os
import platform
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

LAUNCHER = Path(__file__).parents[1] / "support" / "refuse_io_uring.py"

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="io_uring and seccomp are Linux's")

EACH_ERRNO = pytest.mark.parametrize(
    "errno_name",
    ["EPERM", *(pytest.param(name, marks=pytest.mark.exhaustive) for name in ("ENOSYS", "ENOMEM"))],
)


def _refused(answer: str, code: str, *options: str, **environ: str) -> Any:
    """Run ``code`` in a child to which io_uring is refused; it prints JSON, which is returned."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("PROACTORX_")}
    done = subprocess.run(
        [sys.executable, LAUNCHER, "--answer", answer, *options, sys.executable, "-W", "error", "-c", code],
        env=inherited | environ,
        stdout=subprocess.PIPE,
        timeout=30,
        check=True,
    )
    return json.loads(done.stdout)


RAW_CALLS = """
import ctypes, json
libc = ctypes.CDLL(None, use_errno=True)
params = ctypes.create_string_buffer(120)
answers = []
for number, first in ((425, 1), (426, -1), (427, -1)):
    libc.syscall(*map(ctypes.c_long, (number, first)), params, 0, 0, 0, 0)
    answers.append(ctypes.get_errno())
libc.syscall(ctypes.c_long(424), ctypes.c_long(-1), 0, 0, 0)  # the neighbour, pidfd_send_signal: not refused
print(json.dumps([answers, ctypes.get_errno()]))
"""


@EACH_ERRNO
def test_the_launcher_refuses_io_uring_and_nothing_else(errno_name: str) -> None:
    answers, neighbour = _refused(errno_name, RAW_CALLS)
    assert answers == [getattr(errno, errno_name)] * 3
    assert neighbour == errno.EBADF


TALK = """
import asyncio, json, logging
import proactorx

said = []
class Recorder(logging.Handler):
    def emit(self, record):
        said.append([record.levelname, record.getMessage()])
log = logging.getLogger("proactorx")
log.addHandler(Recorder())
log.setLevel(logging.INFO)

async def serve(reader, writer):
    writer.write(await reader.readexactly(4))
    await writer.drain()
    writer.close()

async def main():
    info = asyncio.get_running_loop().backend_info()
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"ping")
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
    return {"name": info.name, "reason": info.reason, "rejected": info.rejected, "answer": answer.decode()}

found = proactorx.run(main())
proactorx.new_event_loop().close()
print(json.dumps(found | {"said": said}))
"""


@EACH_ERRNO
def test_auto_serves_on_epoll_and_says_why_once(errno_name: str) -> None:
    found = _refused(errno_name, TALK)
    assert found["answer"] == "ping"
    assert found["name"] == "epoll"
    assert errno_name in found["rejected"]["io_uring"]
    lines = [message for level, message in found["said"] if level == "INFO"]
    assert len(lines) == 1
    assert lines[0].startswith("proactorx: backend=epoll (io_uring: ")
    assert errno_name in lines[0]


def test_epoll_by_name_is_silent() -> None:
    """Who named the backend needs no word about the one it is not."""
    found = _refused("EPERM", TALK, PROACTORX_BACKEND="epoll")
    assert found["name"] == "epoll"
    assert found["said"] == []


def test_nothing_is_asked_of_the_kernel_before_the_choice() -> None:
    """Where a sandbox kills whoever calls io_uring, naming another backend is enough to live."""
    by_variable = _refused("SIGSYS", TALK, PROACTORX_BACKEND="epoll")
    assert by_variable["answer"] == "ping"
    by_argument = "import proactorx; proactorx.new_event_loop('epoll').close(); print('true')"
    assert _refused("SIGSYS", by_argument) is True


def test_the_sandbox_of_that_test_does_kill() -> None:
    with pytest.raises(subprocess.CalledProcessError) as caught:
        _refused("SIGSYS", RAW_CALLS)
    assert caught.value.returncode == -signal.SIGSYS


#: Calls that came after 2017, but for clone3, on which threads depend:
#: statx has a number of its own on x86-64.
NEW_CALLS = {"statx": 332 if platform.machine() == "x86_64" else 291, "pidfd_open": 434, "close_range": 436}
NEW_CALLS |= {"openat2": 437, "faccessat2": 439, "epoll_pwait2": 441}

EVERYTHING = """
import asyncio, json, os, sys, tempfile
import proactorx
from proactorx import files

async def main():
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "file")
        await files.write_bytes(path, b"written", durable=True, atomic=True)
        async with files.open(path, "rb+") as file:
            found = [(await file.read()).decode(), await file.seek(0, 2)]
            await file.write(b" twice")
        await files.os.rename(path, path + "2")
        found += [(await files.read_bytes(path + "2")).decode(), await files.os.listdir(folder)]
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", "print('child')", stdout=-1)
    found += [(await child.communicate())[0].decode().strip(), child.returncode]
    await asyncio.sleep(0.001)
    return found

print(json.dumps(proactorx.run(main())))
"""


def test_a_filter_that_knows_no_new_calls() -> None:
    """Old filters answer EPERM to them, and not ENOSYS as an old kernel does."""
    found = _refused("EPERM", EVERYTHING, "--also", ",".join(map(str, NEW_CALLS.values())))
    assert found == ["written", 7, "written twice", ["file2"], "child", 0]


OPENED = """
import contextlib, errno, gc, json, os, sys
import proactorx
from proactorx import files

def opened():
    for fd in os.listdir("/dev/fd"):
        with contextlib.suppress(OSError):  # the listing's own
            yield os.readlink(f"/dev/fd/{fd}")

async def main():
    found = []
    for mode in ("rb", "r"):
        try:
            await files.open(sys.executable, mode)
        except OSError as exc:
            found.append(errno.errorcode[exc.errno])
    gc.collect()
    return found, os.path.realpath(sys.executable) not in opened()

print(json.dumps(proactorx.run(main())))
"""


def test_a_file_that_cannot_be_looked_at_is_closed_again() -> None:
    """It crashed: its finalizer closed what had not been made yet."""
    found, closed = _refused("ENOMEM", OPENED, "--also", str(NEW_CALLS["statx"]))
    assert found == ["ENOMEM"] * 2
    assert closed


NAMED = """
import json
import proactorx

said = []
for name in ("io_uring", None):
    try:
        proactorx.new_event_loop(name).close()
    except proactorx.BackendError as error:
        said.append(str(error))
print(json.dumps(said))
"""


@EACH_ERRNO
def test_io_uring_by_name_raises_the_cause(errno_name: str) -> None:
    """By argument and by variable: who names a backend gets that one or an error, never another."""
    said = _refused(errno_name, NAMED, PROACTORX_BACKEND="io_uring")
    assert len(said) == 2
    assert all("io_uring" in message and errno_name in message for message in said)


PROBE = """
import json
import proactorx.drivers
print(json.dumps({p.name: [p.available, p.reason] for p in proactorx.drivers.probe_all()}))
"""


@EACH_ERRNO
def test_probe_tells_what_is_refused_and_what_runs(errno_name: str) -> None:
    probes = _refused(errno_name, PROBE)
    available, reason = probes["io_uring"]
    assert not available
    assert errno_name in reason
    assert probes["epoll"] == [True, ""]
    assert probes["select"] == [True, ""]
