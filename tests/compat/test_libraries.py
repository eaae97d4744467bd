"""Sessions of real libraries on each driver, and the page that tells how they went."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

if sys.platform != "linux":
    pytest.skip("the sessions are of Linux", allow_module_level=True)

from libraries import DATA, LOOPS, PAGE, installed, page, run
from sessions import SESSIONS

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


@pytest.mark.skipif(not DATA.exists(), reason="the docs are not here")
def test_the_page_is_made_of_the_data() -> None:
    data: dict[str, Any] = json.loads(DATA.read_text())
    assert PAGE.read_text() == page(data)
    assert [row["library"] for row in data["rows"]] == sorted(SESSIONS)
    ours = {row["library"]: row[LOOPS[-1]] for row in data["rows"] if row["version"]}
    assert {library: found for library, found in ours.items() if "error" in found} == {}
