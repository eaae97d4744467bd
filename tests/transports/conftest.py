"""What every test of this room must leave behind: no open descriptor and no unexplained error."""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from .certs import Certificates, make_certificates
from .support import open_fds


def _left(before: dict[int, tuple[int, int]]) -> dict[int, str]:
    after = open_fds()
    names = {}
    for fd in after:
        if before.get(fd) != after[fd]:
            try:
                names[fd] = os.readlink(f"/proc/self/fd/{fd}")
            except OSError:
                names[fd] = "?"
    return names


@pytest.fixture(autouse=True)
def no_descriptor_left() -> Iterator[None]:
    before = open_fds()
    yield
    if _left(before):
        gc.collect()  # what only a cycle kept alive warns by itself, and so fails the test
    left = _left(before)
    assert not left, f"descriptors left open: {left}"


@pytest.fixture(autouse=True)
def no_silent_error(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """A test that expects the loop to report an error takes the report through the exception handler."""
    yield
    logged = [
        record.getMessage()
        for record in caplog.get_records("call")
        if record.levelno >= logging.ERROR and record.name.partition(".")[0] in ("asyncio", "proactorx")
    ]
    assert not logged, f"errors logged: {logged}"


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    directory: Path = tmp_path_factory.mktemp("certificates")
    return make_certificates(directory)
