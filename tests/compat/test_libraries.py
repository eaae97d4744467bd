"""Sessions of real libraries on each driver, and the page that tells how they went."""

from __future__ import annotations

import os
import shutil
import sys

import pytest

if sys.platform != "linux":
    pytest.skip("the sessions are of Linux", allow_module_level=True)

import dask_hosts
from libraries import TABLE, run
from sessions import SESSIONS
from tables import LOOPS, installed

from proactorx import drivers

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


@pytest.mark.skipif(not TABLE.data.exists(), reason="the docs are not here")
def test_the_page_is_made_of_the_data() -> None:
    data = TABLE.read()
    assert TABLE.page.read_text() == TABLE.text()
    assert [row["library"] for row in data["rows"]] == sorted(SESSIONS)
    ours = {row["library"]: row[LOOPS[-1]] for row in data["rows"] if row["version"]}
    assert {library: found for library, found in ours.items() if "error" in found} == {}
