"""Runs single tests of CPython's own ``test.test_asyncio`` on one kind of loop, each in a process of its own.

    python child.py --list      the names of the tests, one a line; exit code 3 where the interpreter has none
    python child.py LOOP        reads "SECONDS NAME" lines, answers each with a line of JSON: outcome, details

LOOP is a driver of proactorx, ``asyncio`` or ``uvloop``.  The modules are imported once; a test runs in a
fork of that process, so that nothing of it reaches the next one, and so that it may hang or crash.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import functools
import importlib
import json
import os
import signal
import sys
import tempfile
import traceback
import types
import unittest
import warnings
from collections.abc import Callable
from typing import Any

NO_TESTS = 3

# Classes of test.test_asyncio that make their loop by a method which we override (mixins), ...
MIXED = {
    "test_buffered_proto": ("BaseTestBufferedProtocol",),
    "test_events": ("UnixEventLoopTestsMixin", "SubprocessTestsMixin"),
    "test_futures": ("CFutureTests", "CFutureDoneCallbackTests"),
    "test_runners": ("RunTests", "RunnerTests"),
    "test_sendfile": ("SendfileTestsBase",),
    "test_server": ("BaseStartServer", "SelectorStartServerTests"),
    "test_sock_lowlevel": ("BaseSockTestsMixin",),
    "test_sslproto": ("BaseStartTLS",),
    "test_subprocess": ("SubprocessMixin",),
    "test_tasks": (
        "CTask_CFuture_Tests",
        "CTask_CFuture_SubclassTests",
        "FutureGatherTests",
        "CoroutineGatherTests",
    ),
    "test_unix_events": ("SelectorEventLoopUnixSocketTests",),
}
# ... and those that ask the policy for one: all classes of the module, or those named.
BY_POLICY: dict[str, tuple[str, ...]] = {
    "test_eager_task_factory": ("CEagerTaskFactoryLoopTests", "NonEagerCTaskTests", "EagerCTaskTests"),
    "test_futures2": ("CFutureTests",),
    "test_locks": (),
    "test_pep492": (),
    "test_queues": (),
    "test_server": ("TestServer2", "UnixServerCleanupTests"),
    "test_ssl": ("TestSSL",),
    "test_staggered": (),
    "test_streams": (),
    "test_taskgroups": (),
    "test_tasks": (
        "CIntrospectionTests",
        "CCurrentLoopTests",
        "GenericTaskTests",
        "RunCoroutineThreadsafeTests",
        "SleepTests",
    ),
    "test_threads": (),
    "test_timeouts": (),
    "test_unix_events": ("TestFunctional", "TestFork"),
    "test_waitfor": (),
}

Factory = Callable[[], asyncio.AbstractEventLoop]


def factory_of(name: str) -> Factory:
    if name == "asyncio":
        return asyncio.SelectorEventLoop
    if name == "uvloop":
        # Theirs looks at a private attribute first.
        utils: Any = importlib.import_module("test.test_asyncio.utils")
        utils.TestCase.close_loop = staticmethod(lambda loop: loop.close())
        return importlib.import_module("uvloop").new_event_loop
    import proactorx

    return functools.partial(proactorx.new_event_loop, name)


def adapter(factory: Factory) -> type:
    """What a class of CPython's tests calls for a loop."""

    class Adapter:
        def create_event_loop(self) -> asyncio.AbstractEventLoop:
            return factory()

        def new_loop(self) -> Any:
            return factory()

        def new_test_loop(self: Any, gen: Any = None) -> Any:
            # With a generator it is a loop with a clock that the test moves: CPython's own.
            if gen is not None:
                return super().new_test_loop(gen)
            loop = factory()
            self.set_event_loop(loop)
            return loop

        def _run_loop(self, loop: Any) -> None:
            # CPython's (of the gather tests) turns the loop until its private queue is empty.
            for _ in range(10):
                loop.call_soon(loop.stop)
                loop.run_forever()

    return Adapter


class WithLoop(unittest.TestCase):
    """For mixins that want ``self.loop`` made in setUp."""

    def setUp(self) -> None:
        super().setUp()
        self.loop = self.create_event_loop()  # type: ignore[attr-defined]
        self.set_event_loop(self.loop)  # type: ignore[attr-defined]


class Runs:
    """For test_runners: a loop that notes that its generators were shut down."""

    def new_loop(self) -> Any:
        loop: Any = super().new_loop()  # type: ignore[misc]
        shut_down = loop.shutdown_asyncgens
        loop.shutdown_ag_run = False

        async def shutdown_asyncgens() -> None:
            loop.shutdown_ag_run = True
            await shut_down()

        loop.shutdown_asyncgens = shutdown_asyncgens
        return loop


def module(name: str) -> Any:
    try:
        return importlib.import_module(f"test.test_asyncio.{name}")
    except unittest.SkipTest:  # not for this system
        return types.SimpleNamespace(__name__="")


def mixed(factory: Factory, module_name: str, class_name: str) -> type[unittest.TestCase]:
    found = module(module_name)
    base = getattr(found, class_name)
    utils = importlib.import_module("test.test_asyncio.utils")
    bases: list[type] = [base]
    if not issubclass(base, unittest.TestCase):
        bases.append(utils.TestCase)
    bases.insert(0, adapter(factory))
    if module_name == "test_runners":
        bases.insert(0, Runs)
    if module_name in ("test_subprocess", "test_unix_events") or class_name == "SubprocessTestsMixin":
        # These have no setUp, or one that makes a loop of its own.
        bases = [WithLoop, bases[0], base, *bases[2:]]
    return type(class_name, tuple(bases), {"__module__": module_name})


def classes(factory: Factory) -> dict[str, type[unittest.TestCase]]:
    """By name: module and class."""
    out: dict[str, type[unittest.TestCase]] = {}
    for name, wanted in MIXED.items():
        for class_name in wanted:
            if hasattr(module(name), class_name):
                out[f"{name}.{class_name}"] = mixed(factory, name, class_name)
    for name, wanted in BY_POLICY.items():
        try:
            found = module(name)
        except ModuleNotFoundError:  # newer than this Python
            continue
        for class_name, value in vars(found).items():
            if (
                not isinstance(value, type)
                or value.__module__ != found.__name__
                or (wanted and class_name not in wanted)
            ):
                continue
            if issubclass(value, unittest.TestCase):
                out[f"{name}.{class_name}"] = value
    return out


def names(factory: Factory) -> list[str]:
    loader = unittest.TestLoader()
    return [
        f"{name}.{test}" for name, cls in classes(factory).items() for test in loader.getTestCaseNames(cls)
    ]


def policy(factory: Factory) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        base: Any = type(asyncio.get_event_loop_policy())
    return type("Policy", (base,), {"_loop_factory": staticmethod(factory)})()


def run_here(
    factory: Factory, found: dict[str, type[unittest.TestCase]], name: str, limit: float
) -> tuple[str, str]:
    """The outcome of one test (passed, skipped, failed), and what there is to say of it."""
    faulthandler.dump_traceback_later(limit, exit=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        asyncio.set_event_loop_policy(policy(factory))
    class_name, _, test = name.rpartition(".")
    result = unittest.TestResult()
    unittest.TestSuite([found[class_name](test)]).run(result)
    wrong = result.errors + result.failures
    if wrong or result.unexpectedSuccesses:
        return "failed", "\n".join(text for _, text in wrong) or "unexpected success"
    if result.skipped:
        return "skipped", result.skipped[0][1]
    return "passed", ""


def run_forked(
    factory: Factory, found: dict[str, type[unittest.TestCase]], name: str, limit: float
) -> tuple[str, str]:
    with tempfile.TemporaryFile("w+") as answer, tempfile.TemporaryFile("w+", errors="replace") as output:
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                os.setsid()
                for fd in (1, 2):
                    os.dup2(output.fileno(), fd)
                json.dump(run_here(factory, found, name, limit), answer)
                answer.flush()
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                with contextlib.suppress(BaseException):
                    sys.stderr.flush()
                os._exit(status)
        _, status = os.waitpid(pid, 0)
        with contextlib.suppress(ProcessLookupError):  # children that the test has left
            os.killpg(pid, signal.SIGKILL)
        output.seek(0)
        printed = output.read()[-6000:]
        answer.seek(0)
        text = answer.read()
        if status or not text:
            return "failed", f"{name}: status {os.waitstatus_to_exitcode(status)}, limit {limit} s\n{printed}"
        outcome, details = json.loads(text)
        return outcome, f"{details}\n{printed}" if outcome == "failed" else details


def main() -> int:
    warnings.simplefilter("ignore")
    try:
        importlib.import_module("test.test_asyncio.utils")
    except ImportError:
        return NO_TESTS
    if sys.argv[1] == "--list":
        print("\n".join(names(asyncio.SelectorEventLoop)))
        return 0
    factory = factory_of(sys.argv[1])
    found = classes(factory)
    for line in sys.stdin:
        limit, _, name = line.strip().partition(" ")
        print(json.dumps(run_forked(factory, found, name, float(limit))), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
