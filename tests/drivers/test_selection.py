"""Which driver runs: the words, the variable and the argument, and what is said about it."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

import proactorx
from proactorx import BackendError, drivers

HERE = tuple(found.name for found in drivers.probe_all() if found.available)
EACH_HERE = pytest.mark.parametrize("name", HERE)
IN_ORDER = ["iocp", "select"] if sys.platform == "win32" else ["io_uring", "epoll", "select"]
ABSENT = [name for name in ("iocp", "io_uring", "epoll") if name not in HERE]


@pytest.fixture(autouse=True)
def _untouched_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("PROACTORX_BACKEND", "PROACTORX_URING_DISABLE"):
        monkeypatch.delenv(name, raising=False)
    yield
    drivers.probe.cache_clear()


def _child(code: str, **environ: str) -> Any:
    """Run `code` in a fresh process; it prints JSON, which is returned."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("PROACTORX_")}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env=inherited | environ,
        stdout=subprocess.PIPE,
        timeout=30,
        check=True,
    )
    return json.loads(done.stdout)


@EACH_HERE
def test_the_argument_names_a_driver(name: str) -> None:
    info = drivers.Choice(name).info
    assert info.name == name
    assert "argument" in info.reason
    assert info.rejected == {}


@EACH_HERE
def test_the_variable_names_a_driver(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROACTORX_BACKEND", name)
    info = drivers.Choice().info
    assert info.name == name
    assert "PROACTORX_BACKEND" in info.reason


@EACH_HERE
@pytest.mark.parametrize("word", ["epoll", "select", "auto", "sim", "nonsense"])
def test_the_argument_beats_the_variable(name: str, word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever that says, also where it is wrong."""
    monkeypatch.setenv("PROACTORX_BACKEND", word)
    assert drivers.Choice(name).info.name == name


@pytest.mark.parametrize("word", ["", "auto"])
def test_auto_takes_the_first_that_suits(word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROACTORX_BACKEND", word)
    best = next(found.name for found in drivers.probe_all() if found.available and found.suitable)
    assert drivers.Choice().info.name == best
    assert drivers.Choice("auto").info.name == best


def test_the_argument_auto_beats_a_variable_that_names_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROACTORX_BACKEND", "select")
    assert drivers.Choice("auto").info.name == drivers.probe_all()[0].name or "io_uring" not in HERE


@pytest.mark.parametrize("word", ["nonsense", "EPOLL", " epoll", "epoll,select", "uring", "none", "sim", "0"])
def test_unknown_words_are_errors(word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError) as by_argument:
        drivers.Choice(word)
    monkeypatch.setenv("PROACTORX_BACKEND", word)
    with pytest.raises(ValueError) as by_variable:
        drivers.Choice()
    for caught, source in ((by_argument, "argument"), (by_variable, "PROACTORX_BACKEND")):
        message = str(caught.value)
        assert repr(word) in message
        assert source in message
        assert all(known in message for known in ("auto", "io_uring", "epoll", "iocp", "select"))


def test_an_empty_argument_is_not_auto() -> None:
    with pytest.raises(ValueError):
        drivers.Choice("")


@pytest.mark.parametrize("name", ABSENT)
def test_a_driver_that_is_not_here_is_an_error_with_its_cause(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cause = drivers.probe(name).reason
    assert cause
    with pytest.raises(BackendError) as caught:
        drivers.Choice(name)
    assert name in str(caught.value)
    assert cause in str(caught.value)
    monkeypatch.setenv("PROACTORX_BACKEND", name)
    with pytest.raises(BackendError, match="PROACTORX_BACKEND"):
        drivers.Choice()


def test_a_backend_error_is_a_runtime_error() -> None:
    assert issubclass(BackendError, RuntimeError)
    assert not issubclass(BackendError, ValueError)


@EACH_HERE
def test_every_way_to_a_loop_takes_the_backend(name: str) -> None:
    async def which() -> str:
        import asyncio

        info: drivers.BackendInfo = asyncio.get_running_loop().backend_info()  # type: ignore[attr-defined]
        return info.name

    assert proactorx.run(which(), backend=name) == name
    for make in (proactorx.new_event_loop, proactorx.EventLoop):
        loop = make(name)
        try:
            assert loop.run_until_complete(which()) == name
        finally:
            loop.close()


@pytest.mark.parametrize("make", [proactorx.new_event_loop, proactorx.EventLoop])
def test_a_loop_that_cannot_be_made_leaves_nothing_behind(make: Any) -> None:
    for word, error in (("nonsense", ValueError), (ABSENT[0], BackendError)):
        with pytest.raises(error):
            make(word)


SAY = """
import json, logging
import proactorx
said = []
class Recorder(logging.Handler):
    def emit(self, record):
        said.append([record.name, record.levelname, record.getMessage()])
logging.getLogger().addHandler(Recorder())
logging.getLogger().setLevel(logging.DEBUG)
async def main():
    pass
for _ in range(3):
    proactorx.run(main())
loop = proactorx.EventLoop()
info = loop.backend_info()
loop.close()
proactorx.new_event_loop("select").close()
said = [line for line in said if line[0] != "asyncio"]
print(json.dumps([said, info.name, info.reason]))
"""

REFUSE_FIRST = """
import dataclasses
from proactorx import drivers
first, probe = drivers._DRIVERS[0], drivers.probe
def refused(name):
    found = probe(name)
    return dataclasses.replace(found, available=False, reason="refused") if name == first else found
drivers.probe = refused
"""


@pytest.mark.skipif(len(HERE) < 2, reason="there is nothing to fall back to")
@pytest.mark.parametrize("refused", [False, True], ids=["first-choice", "refused"])
def test_auto_says_once_what_it_took_and_why(refused: bool) -> None:
    """At INFO where this system refused a better driver, else at DEBUG: most programs then log nothing."""
    first = drivers.probe_all()[0]
    said, name, reason = _child(REFUSE_FIRST + SAY if refused else SAY)
    level = "INFO" if refused or not (first.available and first.suitable) else "DEBUG"
    assert said == [["proactorx", level, f"proactorx: backend={name} ({reason})"]]
    assert (name == first.name) == (level == "DEBUG")
    assert "\n" not in reason


@EACH_HERE
def test_who_named_the_driver_is_told_nothing(name: str) -> None:
    said, chosen, _reason = _child(SAY, PROACTORX_BACKEND=name)
    assert chosen == name
    assert said == []


ORDER = """
import json, sys
import proactorx
loaded = [name for name in sys.modules if name.startswith("proactorx.drivers.")]
import os
os.environ["PROACTORX_BACKEND"] = "select"
loop = proactorx.new_event_loop()
name = loop.backend_info().name
loop.close()
print(json.dumps([loaded, name, [n for n in sys.modules if n.startswith("proactorx.drivers.io_uring.")]]))
"""


def test_the_variable_is_read_when_a_loop_is_made_and_nothing_is_probed_before() -> None:
    loaded, name, io_uring = _child(ORDER, PROACTORX_BACKEND="nonsense", PROACTORX_URING_DISABLE="nonsense")
    assert not [module for module in loaded if "io_uring" in module]
    assert name == "select"
    assert io_uring == []


needs_io_uring = pytest.mark.skipif("io_uring" not in HERE, reason="io_uring does not run here")


@needs_io_uring
@pytest.mark.parametrize(
    "words", ["multishot", "streams", "multishot,streams", " multishot , ", "streams,,streams", ","]
)
def test_families_of_io_uring_can_be_switched_off(words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROACTORX_URING_DISABLE", words)
    loop = proactorx.new_event_loop("io_uring")
    try:
        loop.run_until_complete(_talk())
        made = loop._port.driver.describe()
    finally:
        loop.close()
    assert made["multishot"] is ("multishot" not in words)
    assert made["streams"] is ("streams" not in words)


async def _talk() -> None:
    import asyncio

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readexactly(4))
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"ping")
        assert await reader.read() == b"ping"
        writer.close()
        await writer.wait_closed()


@needs_io_uring
@pytest.mark.parametrize("words", ["nonsense", "multishot,nonsense", "Multishot", "zc"])
@pytest.mark.parametrize("backend", ["auto", "io_uring"])
def test_unknown_families_are_errors(words: str, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    drivers.probe.cache_clear()
    monkeypatch.setenv("PROACTORX_URING_DISABLE", words)
    for _ in range(2):  # also when something is cached
        with pytest.raises(ValueError, match="PROACTORX_URING_DISABLE"):
            drivers.Choice(backend)


@pytest.mark.parametrize("backend", [name for name in HERE if name != "io_uring"])
def test_another_driver_does_not_look_at_the_families(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROACTORX_URING_DISABLE", "nonsense")
    assert drivers.Choice(backend).info.name == backend


def test_the_probes_come_in_the_order_of_auto() -> None:
    assert [found.name for found in drivers.probe_all()] == IN_ORDER


@pytest.mark.parametrize("name", ["io_uring", "epoll", "select", "iocp"])
def test_a_probe_tells_either_that_it_runs_or_why_not(name: str) -> None:
    found = drivers.probe(name)
    assert found.name == name
    assert found.available or found.reason
    assert found.suitable is False or found.available
    if found.available and found.suitable:
        assert found.reason == ""
    if found.available:
        assert found.kernel in (platform.release(), platform.version())  # the second: on Windows
    assert all(isinstance(part, tuple) for part in (found.features, found.ops, found.setup_flags))
    assert drivers.probe(name) is found  # asked once
    with pytest.raises(AttributeError):
        found.available = False  # type: ignore[misc]


@needs_io_uring
def test_the_probe_of_io_uring_knows_the_ring() -> None:
    found = drivers.probe("io_uring")
    assert found.tier in ("U0", "U1", "U2", "U3")
    assert {"EXT_ARG", "NODROP"} <= set(found.features)
    assert {"accept", "send", "recv", "connect", "async_cancel", "poll_add"} <= set(found.ops)
    assert len(set(found.ops)) == len(found.ops)
    assert found.tier < "U2" or {"SINGLE_ISSUER", "DEFER_TASKRUN"} <= set(found.setup_flags)
    info = drivers.Choice("io_uring").info
    assert (info.tier, info.kernel, info.features) == (found.tier, found.kernel, found.features)


def test_the_probe_of_an_unknown_word() -> None:
    for word in ("auto", "nonsense", ""):
        with pytest.raises(ValueError):
            drivers.probe(word)


def test_select_runs_everywhere() -> None:
    assert drivers.probe("select").available
    assert drivers.probe("select").suitable
