"""The public names of the package, the choice of a driver, and the ways to put the loop under a program."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import warnings
from typing import Any

import pytest

import proactorx
from proactorx import files
from proactorx.loop.core import LoopCore

from .helpers import (
    Factory,
    finish,
    in_thread,
    run_script,
    script_environment,
    socket_pair,
    start_script,
    step,
    subclass,
)

needs_policies = pytest.mark.skipif(sys.version_info >= (3, 16), reason="policies are gone in 3.16")


async def where() -> Any:
    await asyncio.sleep(0)
    return asyncio.get_running_loop()


def meant(word: str) -> str:
    """The driver that this word of --driver means."""
    if word != "auto":
        return word
    with contextlib.closing(proactorx.new_event_loop("auto")) as loop:
        return loop.backend_info().name


# run, new_event_loop, EventLoop


def test_run(driver_name: str) -> None:
    loop = proactorx.run(where(), backend=driver_name)
    assert isinstance(loop, proactorx.EventLoop)
    assert loop.backend_info().name == meant(driver_name)
    assert loop.is_closed()
    assert loop.get_debug() is False
    assert proactorx.run(where(), backend=driver_name, debug=True).get_debug() is True


def test_run_without_choosing() -> None:
    assert isinstance(proactorx.run(where()), proactorx.EventLoop)


def test_run_gives_back_results_and_errors(driver_name: str) -> None:
    async def main(value: int) -> int:
        if value:
            raise LookupError(value)
        return value

    assert proactorx.run(main(0), backend=driver_name) == 0
    with pytest.raises(LookupError):
        proactorx.run(main(1), backend=driver_name)


def test_run_cleans_up(driver_name: str) -> None:
    ended: list[str] = []

    async def linger() -> None:
        try:
            await asyncio.sleep(1000)
        finally:
            ended.append("task")

    async def main() -> None:
        kept.append(asyncio.create_task(linger()))
        await asyncio.to_thread(ended.append, "thread")

    kept: list[Any] = []
    proactorx.run(main(), backend=driver_name)
    assert ended == ["thread", "task"]


def test_run_within_a_running_loop_is_refused(driver_name: str) -> None:
    async def main() -> None:
        coro = where()
        with pytest.raises(RuntimeError, match="running event loop"):
            proactorx.run(coro)
        coro.close()

    proactorx.run(main(), backend=driver_name)


def test_run_takes_what_asyncio_run_takes() -> None:
    with pytest.raises((TypeError, ValueError)):
        proactorx.run(5)  # type: ignore[arg-type]


def test_run_in_another_thread(driver_name: str) -> None:
    assert in_thread(lambda: proactorx.run(where(), backend=driver_name)).backend_info().name == meant(
        driver_name
    )


def test_run_with_a_backend_that_is_refused() -> None:
    coro = where()
    with pytest.raises(ValueError):
        proactorx.run(coro, backend="no such thing")
    coro.close()


def test_what_a_loop_is(driver_name: str) -> None:
    loop = proactorx.new_event_loop(driver_name)
    try:
        assert type(loop) is proactorx.EventLoop
        assert isinstance(loop, asyncio.BaseEventLoop)
        assert isinstance(loop, asyncio.AbstractEventLoop)
    finally:
        loop.close()
    other = proactorx.EventLoop(backend=driver_name)
    assert other.backend_info().name == meant(driver_name)
    other.close()


@pytest.mark.ours
def test_asyncio_hides_no_method_of_the_compiled_core() -> None:
    """A base class of the core comes after asyncio's own in the method resolution order of the loop."""
    for base in LoopCore.__mro__[:-1]:
        for name in vars(base):
            if not (name.startswith("__") and name.endswith("__")):
                owner = next(cls for cls in proactorx.EventLoop.__mro__ if name in vars(cls))
                assert not owner.__module__.startswith("asyncio"), f"{name} is asyncio's"


def test_the_package_names_its_public_things() -> None:
    for name in (
        "run",
        "new_event_loop",
        "EventLoop",
        "install",
        "EventLoopPolicy",
        "BackendError",
        "__version__",
    ):
        assert hasattr(proactorx, name), name
        assert name == "__version__" or name in proactorx.__all__, name
    assert issubclass(proactorx.BackendError, RuntimeError)
    with pytest.raises(AttributeError, match="no_such_name"):
        proactorx.no_such_name  # type: ignore[attr-defined]  # noqa: B018


def test_import_is_light() -> None:
    """No warning, whatever the version of Python; nothing of the command line; no probe; no policy."""
    source = """
    import sys
    import proactorx
    assert "EventLoopPolicy" not in vars(proactorx)
    assert "rich" not in sys.modules
    print("end")
    """
    assert (
        run_script(None, source, "-W", "error", env=script_environment(PROACTORX_BACKEND="bogus")) == "end\n"
    )


@pytest.mark.parametrize("spin", [0.001, 0.0001])
def test_spin(driver_name: str, spin: float) -> None:
    async def converse() -> int:
        loop = asyncio.get_running_loop()
        with socket_pair() as (left, right):
            for i in range(20):
                loop.call_later(0.0005 * (i % 3), right.send, b"x")
                assert await loop.sock_recv(left, 10) == b"x"
        return 42

    loop = proactorx.new_event_loop(driver_name, spin=spin)
    try:
        assert loop.run_until_complete(converse()) == 42
    finally:
        loop.close()
    with pytest.raises(ValueError):
        proactorx.new_event_loop(driver_name, spin=-1)


# the choice of a driver


def test_backend_info(driver_name: str) -> None:
    loop = proactorx.new_event_loop(driver_name)
    info = loop.backend_info()
    loop.close()
    assert info.name == meant(driver_name)
    assert info.reason
    assert "\n" not in info.reason
    assert isinstance(info.tier, str)
    assert info.kernel
    assert all(isinstance(feature, str) for feature in info.features)
    assert loop.backend_info() == info, "a closed loop still says what it was"


def test_what_auto_rejected_has_a_reason() -> None:
    loop = proactorx.new_event_loop("auto")
    info = loop.backend_info()
    loop.close()
    assert info.name in ("io_uring", "epoll", "iocp", "select")
    assert info.name not in info.rejected
    assert all(isinstance(why, str) and why for why in info.rejected.values())


@pytest.mark.parametrize("word", ["bogus", "EPOLL!", "uring", "proactor"])
def test_unknown_words_are_refused(word: str) -> None:
    with pytest.raises(ValueError, match="epoll"):
        proactorx.new_event_loop(backend=word)
    with pytest.raises(ValueError, match=word):
        proactorx.EventLoop(word)


@pytest.mark.skipif(sys.platform == "win32", reason="it can start there")
def test_a_named_backend_that_cannot_start_raises() -> None:
    with pytest.raises(proactorx.BackendError, match=r"iocp"):
        proactorx.new_event_loop(backend="iocp")
    coro = where()
    with pytest.raises(proactorx.BackendError):
        proactorx.run(coro, backend="iocp")
    coro.close()


PRINT_NAME = """
import proactorx
try:
    loop = proactorx.new_event_loop({argument})
    print(loop.backend_info().name)
    loop.close()
except (ValueError, proactorx.BackendError) as exc:
    print(type(exc).__name__, exc)
"""


def test_the_environment_chooses_and_the_argument_wins(driver_name: str) -> None:
    def name(variable: str, argument: str = "") -> str:
        environment = script_environment(PROACTORX_BACKEND=variable)
        return run_script(None, PRINT_NAME.format(argument=argument), env=environment).strip()

    assert name(driver_name) == meant(driver_name)
    assert name("select", repr(driver_name)) == meant(driver_name)
    assert name("iocp", f"backend={driver_name!r}") == meant(driver_name)


@pytest.mark.skipif(sys.platform == "win32", reason="iocp can start there")
def test_the_environment_is_not_forgiven_either() -> None:
    for variable, answer in (("iocp", "BackendError"), ("bogus", "ValueError")):
        environment = script_environment(PROACTORX_BACKEND=variable)
        assert run_script(None, PRINT_NAME.format(argument=""), env=environment).startswith(answer)


LOOPS_OF_EVERY_KIND = """
import asyncio, logging, proactorx
{setup}
for _ in range(3):
    loop = proactorx.new_event_loop()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
proactorx.run(asyncio.sleep(0))
loop = proactorx.EventLoop("auto")
print(loop.backend_info().name)
loop.close()
"""


def _log_of(setup: str) -> tuple[str, list[str]]:
    process = start_script(LOOPS_OF_EVERY_KIND.format(setup=setup))
    out, err = finish(process)
    assert process.returncode == 0, err
    return out.strip(), err.splitlines()


def test_auto_says_once_what_it_chose() -> None:
    setup = "logging.basicConfig(level=logging.DEBUG, format='%(name)s %(message)s')"
    name, lines = _log_of(setup)
    (line,) = (line for line in lines if line.startswith("proactorx "))
    assert line.startswith(f"proactorx proactorx: backend={name}")


def test_a_program_that_does_not_log_sees_nothing() -> None:
    assert _log_of("")[1] == []


# the ways to put it under a program


@pytest.mark.skipif(sys.version_info < (3, 12), reason="loop_factory is new in 3.12")
def test_asyncio_run_with_a_factory(loop_factory: Factory) -> None:
    loop = asyncio.run(where(), loop_factory=loop_factory)  # type: ignore[call-arg]
    assert loop.is_closed()
    loop = asyncio.run(where(), debug=True, loop_factory=proactorx.new_event_loop)  # type: ignore[call-arg]
    assert isinstance(loop, proactorx.EventLoop)
    assert loop.get_debug()


def test_runner_with_the_public_factories() -> None:
    for factory in (proactorx.new_event_loop, proactorx.EventLoop):
        with asyncio.Runner(loop_factory=factory, debug=True) as runner:
            loop = runner.run(where())
            assert isinstance(loop, proactorx.EventLoop)
            assert loop.get_debug()


def test_set_event_loop(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    assert asyncio.get_event_loop() is loop
    asyncio.set_event_loop(None)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        step(loop)


@pytest.mark.ours
async def test_pytest_asyncio_runs_tests_on_the_loop() -> None:
    assert isinstance(asyncio.get_running_loop(), proactorx.EventLoop)


@needs_policies
def test_the_policy() -> None:
    source = """
    import asyncio, proactorx, threading, warnings
    policy = proactorx.EventLoopPolicy()
    assert isinstance(policy, asyncio.AbstractEventLoopPolicy)
    assert proactorx.EventLoopPolicy is type(policy)
    asyncio.set_event_loop_policy(policy)

    async def main():
        assert isinstance(asyncio.get_running_loop(), proactorx.EventLoop)

    asyncio.run(main())
    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    thread.join()
    loop = asyncio.new_event_loop()
    assert isinstance(loop, proactorx.EventLoop)
    asyncio.set_event_loop(loop)
    assert asyncio.get_event_loop() is loop
    loop.run_until_complete(main())
    loop.close()
    print("end")
    """
    assert run_script(None, source, "-W", "error", "-W", "ignore::DeprecationWarning") == "end\n"


@needs_policies
def test_install() -> None:
    source = """
    import asyncio, proactorx

    async def main():
        assert isinstance(asyncio.get_running_loop(), proactorx.EventLoop)

    proactorx.install()
    asyncio.run(main())
    print("end")
    """
    assert run_script(None, source, "-W", "error", "-W", "ignore::DeprecationWarning") == "end\n"


def test_without_policies_the_error_says_what_to_do() -> None:
    """Python 3.16 has none; it is played here by taking them away."""
    source = """
    import asyncio, asyncio.events, collections, sys
    fields = "major minor micro releaselevel serial"
    for module in (asyncio, asyncio.events):
        for name in [name for name in vars(module) if "olicy" in name]:
            delattr(module, name)
    sys.version_info = collections.namedtuple("version_info", fields)(3, 16, 0, "final", 0)
    import proactorx

    def refused(call):
        try:
            call()
        except (AttributeError, ImportError, RuntimeError) as exc:
            assert "3.16" in str(exc), exc
            assert "loop_factory" in str(exc) or "proactorx.run" in str(exc), exc
        else:
            raise AssertionError("no error")

    exec("from proactorx import *")
    refused(lambda: proactorx.EventLoopPolicy)
    refused(proactorx.install)
    loop = proactorx.new_event_loop()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    print("end")
    """
    assert run_script(None, source) == "end\n"


def test_anyio(loop_factory: Factory) -> None:
    anyio = pytest.importorskip("anyio")

    async def echo(stream: Any) -> None:
        async with stream:
            async for data in stream:
                await stream.send(data)

    async def main() -> Any:
        listeners = await anyio.create_tcp_listener(local_host="127.0.0.1")
        async with anyio.create_task_group() as group:
            group.start_soon(listeners.serve, echo)
            port = listeners.extra(anyio.abc.SocketAttribute.local_port)
            async with await anyio.connect_tcp("127.0.0.1", port) as stream:
                await stream.send(b"hello")
                assert await stream.receive() == b"hello"
            assert await anyio.to_thread.run_sync(abs, -5) == 5
            with anyio.move_on_after(0.01) as scope:
                await anyio.sleep(100)
            assert scope.cancelled_caught
            group.cancel_scope.cancel()
        await listeners.aclose()
        return asyncio.get_running_loop()

    loop = anyio.run(main, backend="asyncio", backend_options={"loop_factory": loop_factory})
    assert loop.is_closed()


# subclasses


def test_a_subclass_with_its_own_constructor(driver_name: str) -> None:
    class Named(proactorx.EventLoop):
        def __init__(self, name: str) -> None:
            super().__init__(driver_name)
            self.name = name

        def run_forever(self) -> None:
            runs.append(self.name)
            super().run_forever()

    runs: list[str] = []
    loop = Named("mine")
    assert loop.run_until_complete(where()) is loop
    loop.close()
    assert runs == ["mine"]
    assert "Named" in repr(loop)


def test_overridden_methods_are_used(loop_factory: Factory) -> None:
    seen: set[str] = set()

    def spy(name: str) -> Any:
        def method(self: Any, *args: Any, **kwargs: Any) -> Any:
            seen.add(name)
            return getattr(super(type(self), self), name)(*args, **kwargs)

        return method

    names = [
        "call_soon",
        "create_task",
        "create_future",
        "run_in_executor",
        "default_exception_handler",
        "close",
    ]
    loop = subclass(loop_factory, **{name: spy(name) for name in names})()

    def handler(context: dict[str, Any]) -> None:
        seen.add(context["message"])

    loop.default_exception_handler = handler  # type: ignore[method-assign]
    try:
        loop.run_until_complete(where())
        loop.run_until_complete(_use_executor())
        loop.call_exception_handler({"message": "default_exception_handler"})
    finally:
        loop.close()
    assert seen == set(names)


async def _use_executor() -> None:
    loop = asyncio.get_running_loop()
    await asyncio.to_thread(int)
    await asyncio.create_task(asyncio.sleep(0.001))
    await loop.shutdown_default_executor()


@pytest.mark.ours
def test_attributes_are_found_without_a_hook() -> None:
    """``__getattr__`` would slow down each look at an attribute that is there: 20 for a short connection."""
    assert not any("__getattr__" in kind.__dict__ for kind in proactorx.EventLoop.__mro__)


@pytest.mark.ours
def test_a_loop_has_no_attributes_but_those_of_its_users(loop: Any) -> None:
    """Its own have places in it: a dictionary would make each look at a method of the loop dearer."""

    async def main() -> None:
        await loop.run_in_executor(None, int)
        server = await loop.create_server(asyncio.Protocol, "localhost", 0)
        transport, _ = await loop.create_connection(asyncio.Protocol, *server.sockets[0].getsockname()[:2])
        transport.close()
        server.close()
        await files.os.stat(__file__)

    loop.run_until_complete(main())
    assert vars(loop) == {}
    loop.mine = 1
    assert vars(loop) == {"mine": 1}
