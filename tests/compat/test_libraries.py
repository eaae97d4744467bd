"""Sessions of real libraries on each driver, and the page that tells how they went."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

if sys.platform != "linux":
    pytest.skip("the sessions are of Linux", allow_module_level=True)

import dask_hosts
import suites
from libraries import TABLE, run
from sessions import SESSIONS
from support.pages import PAGES, blocks, command_argv, sections, write_files
from tables import LOOPS, installed

from proactorx import drivers

DASK = PAGES / "deploy" / "dask.md"
#: The sessions that the exhaustive run has, of the extras ``programs`` and ``compat``; each takes a second.
SHORT = (
    *("aiodns", "aiohttp", "aiosqlite", "anyio", "httpx", "hypercorn", "pyzmq", "redis", "starlette"),
    *("tornado", "uvicorn", "websockets"),
)


@pytest.mark.exhaustive
@pytest.mark.programs
@pytest.mark.ours
@pytest.mark.parametrize("backend", ["io_uring", "epoll"])
@pytest.mark.parametrize("package", SHORT)
def test_a_session(package: str, backend: str) -> None:
    if not drivers.probe(backend).available:
        pytest.skip(f"{backend} does not run here")
    if not installed(package):
        pytest.skip(f"{package} is not installed")
    found = run(package, f"proactorx.{backend}")
    if "missing" in found:
        pytest.skip(f"{found['missing']} is not here")
    assert "error" not in found, found
    assert found["passed"] > 0


@pytest.mark.exhaustive
@pytest.mark.programs
@pytest.mark.timeout(150)
def test_three_hosts_lose_two_and_no_task_of_2000() -> None:
    pytest.importorskip("distributed")
    if os.geteuid() != 0 or shutil.which("ip") is None or not dask_hosts.namespaces_can_be_made():
        pytest.skip("needs root, iproute2, and a kernel that lets namespaces be made")
    found = dask_hosts.run("proactorx")
    assert (found["tasks"], found["right"], found["workers"]) == (dask_hosts.TASKS, True, 1)
    if drivers.Choice(None).info.name == "io_uring":
        assert found["rings"] == 5  # the scheduler, three workers and a nanny: all are on this loop


def opened(pid: int) -> list[str]:
    """What the descriptors of a process lead to."""
    links = [link for link in Path(f"/proc/{pid}/fd").iterdir() if os.path.lexists(link)]
    return [os.readlink(link) for link in links]


@pytest.mark.exhaustive
@pytest.mark.programs
@pytest.mark.ours
@pytest.mark.timeout(100)
@pytest.mark.skipif(sys.version_info >= (3, 16) or not DASK.exists(), reason="no policies, or no docs")
def test_dask_on_three_hosts_as_its_page_says(tmp_path: Path) -> None:
    pytest.importorskip("distributed")
    if os.geteuid() != 0 or shutil.which("ip") is None or not dask_hosts.namespaces_can_be_made():
        pytest.skip("needs root, iproute2, and a kernel that lets namespaces be made")
    text = sections(DASK)["dask"]
    addresses = {"10.0.0.1": dask_hosts.SCHEDULER}
    client = next(block for block in blocks(text, "python") if block.startswith("# client.py"))
    write_files(f"```python\n{client}```\n", tmp_path, addresses)
    install, schedule, work, ask, _ = blocks(text, "sh")
    assert install == "python -m pip install distributed\n"
    env = os.environ | {"PYTHONPATH": dask_hosts.package(), "DASK_TEMPORARY_DIRECTORY": str(tmp_path)}
    with dask_hosts.hosts() as (_, *names), contextlib.ExitStack() as stack:

        def start(host: int, command: str, **options: Any) -> subprocess.Popen[bytes]:
            argv = ["ip", "netns", "exec", names[host - 1], *command_argv(command, addresses)]
            process = subprocess.Popen(argv, env=env, cwd=tmp_path, stderr=subprocess.DEVNULL, **options)
            stack.callback(process.wait)
            stack.callback(process.kill)
            return process

        cluster = [start(1, schedule), start(2, work), start(3, work)]
        answer, _ = start(1, ask, stdout=subprocess.PIPE).communicate(timeout=80)
        rings = [any("io_uring" in name for name in opened(process.pid)) for process in cluster]
    assert answer == b"332833500\n"
    assert rings == [drivers.Choice(None).info.name == "io_uring"] * 3


@pytest.mark.skipif(not TABLE.data.exists(), reason="the docs are not here")
def test_the_page_is_made_of_the_data() -> None:
    data = TABLE.read()
    assert TABLE.page.read_text() == TABLE.text()
    assert [row["library"] for row in data["rows"]] == sorted(SESSIONS)
    ours = {row["library"]: row[LOOPS[-1]] for row in data["rows"] if row["version"]}
    assert {library: found for library, found in ours.items() if "error" in found} == {}


UNITTEST = """
FAIL: test_a (package.tests.Case.test_a)
ERROR: test_b (package.tests.Case.test_b)
Ran 12 tests in 0.5s

FAILED (failures=1, errors=1, skipped=3)
"""


def test_what_a_suite_prints_is_counted() -> None:
    failed = ["package.tests.Case.test_a", "package.tests.Case.test_b"]
    assert suites.counts(UNITTEST) == {"passed": 7, "skipped": 3, "failed": failed}
    assert suites.counts("Ran 1 test in 0.5s\n\nOK\n") == {"passed": 1, "skipped": 0, "failed": []}
    assert "error" in suites.counts("Segmentation fault")


@pytest.mark.skipif(not suites.TABLE.data.exists(), reason="the docs are not here")
def test_the_table_of_suites_is_made_of_the_data() -> None:
    data = suites.TABLE.read()
    assert suites.TABLE.page.read_text() == suites.TABLE.text()
    assert [row["library"] for row in data["rows"]] == sorted(suites.SUITES)
    assert all(row[loop]["passed"] > 20 for row in data["rows"] for loop in LOOPS)
