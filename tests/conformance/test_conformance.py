"""CPython's own functional tests of asyncio, as the running interpreter has them, pass on our loops.

What does not is in ``exclusions.toml``, and must fail; what is said there of other loops is checked too.
"""

from __future__ import annotations

import concurrent.futures
import functools
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from . import exclusions
from .child import NO_TESTS

CHILD = Path(__file__).with_name("child.py")
LIMIT = 40  # seconds for a test, of which the longest takes 3 s
EXPECTED_TO_FAIL = 6  # seconds for a test that is in the table: some of them would wait for ever
AT_ONCE = 2

REFERENCE = sys.version_info[:2] == (3, 13) and getattr(sys, "_is_gil_enabled", lambda: True)()


def command(*arguments: str) -> tuple[list[str], dict[str, str]]:
    env = {
        key: value for key, value in os.environ.items() if not key.startswith(("PROACTORX_", "PYTHONASYNCIO"))
    }
    return [sys.executable, str(CHILD), *arguments], env | {
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path))
    }


@functools.cache
def names() -> list[str]:
    argv, env = command("--list")
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode == NO_TESTS:
        return []
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def parameters() -> list[Any]:
    missing = pytest.mark.skip(reason="this Python comes without the package test.test_asyncio")
    return names() or [pytest.param("none", marks=missing)]


class Runner:
    """Runs tests on one kind of loop, some at once; each answer is waited for by the test of that name."""

    def __init__(self, loop: str, wanted: list[str]) -> None:
        self._loop = loop
        self._threads = concurrent.futures.ThreadPoolExecutor(AT_ONCE)
        self._mine = threading.local()
        self._children: list[subprocess.Popen[str]] = []
        self._answers = {name: self._threads.submit(self._ask, name) for name in wanted}

    def _child(self) -> subprocess.Popen[str]:
        if not hasattr(self._mine, "child"):
            argv, env = command(self._loop)
            pipe = subprocess.PIPE
            self._mine.child = subprocess.Popen(argv, env=env, stdin=pipe, stdout=pipe, text=True)
            self._children.append(self._mine.child)
        return self._mine.child  # type: ignore[no-any-return]

    def _ask(self, name: str) -> tuple[str, str]:
        limit = EXPECTED_TO_FAIL if expected_to_fail(self._loop, name) else LIMIT
        child = self._child()
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(f"{limit} {name}\n")
        child.stdin.flush()
        outcome, details = json.loads(child.stdout.readline())
        return outcome, details

    def answer(self, name: str) -> tuple[str, str]:
        return self._answers[name].result()

    def close(self) -> None:
        self._threads.shutdown(cancel_futures=True)
        for child in self._children:
            child.communicate()


@pytest.fixture(scope="module")
def runners(request: pytest.FixtureRequest) -> Iterator[Any]:
    made: dict[str, Runner] = {}

    def runner(loop: str, test: Any) -> Runner:
        if loop not in made:
            wanted = [
                item.callspec.params["cpython_test"]
                for item in request.session.items
                if isinstance(item, pytest.Function)
                and item.originalname == test.originalname
                and item.callspec.params.get("driver_name", item.callspec.params.get("other")) == loop
            ]
            made[loop] = Runner(loop, wanted)
        return made[loop]

    yield runner
    for old in made.values():
        old.close()


def excluded(loop: str, name: str) -> exclusions.Group | None:
    return next((group for group in exclusions.read() if name in group.tests and group.holds(loop)), None)


def expected_to_fail(loop: str, name: str) -> bool:
    group = excluded(loop, name)
    return group is not None and getattr(group, loop, "fails") == "fails"


@pytest.mark.parametrize("cpython_test", parameters())
def test_cpython(driver_name: str, cpython_test: str, runners: Any, request: pytest.FixtureRequest) -> None:
    group = excluded(driver_name, cpython_test)
    outcome, details = runners(driver_name, request.node).answer(cpython_test)
    if outcome == "skipped":
        pytest.skip(details)
    if group is not None:
        assert outcome == "failed", f"it passes now: take it out of {exclusions.DATA.name}"
        pytest.xfail(group.reason)
    assert outcome == "passed", details


@pytest.mark.skipif(not REFERENCE, reason="the table tells of Python 3.13")
@pytest.mark.parametrize("cpython_test", [name for group in exclusions.read() for name in group.tests])
@pytest.mark.parametrize("other", ["asyncio", "uvloop"])
def test_what_the_table_says_of_others(
    other: str, cpython_test: str, runners: Any, request: pytest.FixtureRequest
) -> None:
    if request.config.getoption("--no-stock"):
        pytest.skip("--no-stock")
    if other == "uvloop":
        pytest.importorskip("uvloop")
    if cpython_test not in names():
        pytest.skip("this Python comes without this test")
    (group,) = (group for group in exclusions.read() if cpython_test in group.tests)
    outcome, details = runners(other, request.node).answer(cpython_test)
    says = getattr(group, other)
    if says == "not known":
        pytest.skip(f"the table does not know: {outcome}")
    assert outcome == {"passes": "passed", "fails": "failed"}[says], details


@pytest.mark.skipif(not REFERENCE, reason="the table tells of Python 3.13")
def test_the_table_names_tests_that_exist() -> None:
    if not names():
        pytest.skip("this Python comes without the package test.test_asyncio")
    here = [group for group in exclusions.read() if "3.13" in (group.pythons or ("3.13",))]
    assert [name for group in here if not group.newer for name in group.tests if name not in names()] == []
    table = [name for group in here for name in group.tests]
    assert len(set(table)) == len(table), "a test is named twice"


@pytest.mark.skipif(not exclusions.PAGE.exists(), reason="the docs are not here")
def test_the_docs_have_the_table() -> None:
    text = exclusions.PAGE.read_text()
    assert text == exclusions.page(text), "write it anew: python tests/conformance/exclusions.py"
