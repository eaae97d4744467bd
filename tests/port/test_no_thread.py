"""What the page "There is no thread" says, as far as no other test does."""

from __future__ import annotations

import errno
import os
import re
import time
from pathlib import Path

import pytest

from proactorx import CompletionPort

from .support import LIMIT, Pairs

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "pages" / "no-thread.md"


def _kernel_threads() -> set[str]:
    """All threads of this process that run or wait for it, whoever has made them."""
    return set(os.listdir("/proc/self/task"))


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="only Linux shows them")
def test_no_thread_waits_for_a_socket(port: CompletionPort, pairs: Pairs) -> None:
    before = _kernel_threads()
    socks = [pairs.pair() for _ in range(50)]
    for one, _ in socks:
        port.bind(one)
        port.recv(one, 10)
    assert port.get_many(1, 0) == []
    assert _kernel_threads() <= before  # one of an earlier ring may end meanwhile
    for _, other in socks:
        other.send(b"x")
    for _ in socks:
        port.get(LIMIT)
    assert _kernel_threads() <= before


def test_files_need_io_threads_only_without_io_uring(
    port: CompletionPort, variant: str, tmp_path: Path
) -> None:
    from proactorx.pool import default_pool

    before = default_pool().stats().completed
    with (tmp_path / "file").open("w+b", buffering=0) as file:
        port.bind(file)
        for _ in range(3):
            port.write(file, b"data", 0)
        for _ in range(3):
            assert port.get(LIMIT).nbytes == 4
    native = variant.startswith(("io_uring", "iocp"))
    assert (default_pool().stats().completed - before == 0) == native


def test_a_body_that_runs_cannot_be_cancelled(port: CompletionPort, variant: str) -> None:
    if variant.startswith(("io_uring", "iocp")):
        pytest.skip("this driver has file operations of its own")
    reader, writer = os.pipe()
    try:
        port.bind(reader)
        for patience in (0.001, 0.01, 0.1, 1.0):
            op = port.read(reader, 10)
            time.sleep(patience)
            if not op.cancel():
                break
            assert port.get(LIMIT).error == errno.ECANCELED  # it had not begun
        assert not op.done
        os.write(writer, b"data")
        assert port.get(LIMIT).overlapped is op
        assert op.result() == b"data"
    finally:
        os.close(reader)
        os.close(writer)


def test_the_page_names_tests_that_are_there() -> None:
    if not PAGE.exists():
        pytest.skip("the documentation is not here")
    named = set(re.findall(r"`(test_\w+)`", PAGE.read_text()))
    there = set(
        re.findall(r"^def (test_\w+)", "".join(path.read_text() for path in HERE.glob("*.py")), re.MULTILINE)
    )
    assert len(named) > 15
    assert named <= there
