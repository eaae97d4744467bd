"""Files that another process answers for: who submits an operation does not wait, nor holds anybody up."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from proactorx import CompletionPort

from .conftest import WINDOWS, NewPort
from .support import LIMIT

SERVER = Path(__file__).parents[1] / "files" / "slow_disk.py"  # gives a request up after 10 seconds
DATA = bytes(range(256)) * 40
READ, WRITE = b"15\n", b"16\n"

pytestmark = pytest.mark.skipif(WINDOWS, reason="FUSE is Linux's")


class SlowDisk:
    """The server; a thread of ours tells it what to answer, which it can only while others run."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "f"
        self.held: set[bytes] = set()
        self.released = threading.Event()
        self.server = subprocess.Popen(
            [sys.executable, SERVER, folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert self.server.stdout is not None
        self.works = self.server.stdout.readline() == b"ready\n"
        self.thread = threading.Thread(target=self._answer)
        self.thread.start()

    def _answer(self) -> None:
        assert self.server.stdout is not None
        assert self.server.stdin is not None
        for request in self.server.stdout:
            if request in self.held:
                self.released.wait(2 * LIMIT)
            self.server.stdin.write(b"x")
            self.server.stdin.flush()

    def close(self) -> None:
        self.released.set()
        self.server.kill()
        self.thread.join()
        self.server.communicate()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SlowDisk]:
    if not os.access("/dev/fuse", os.W_OK) or os.geteuid():
        pytest.skip("mounting takes root, and /dev/fuse")
    folder = tmp_path / "slow"
    folder.mkdir()
    disk = SlowDisk(folder)
    try:
        if not disk.works:
            pytest.skip("FUSE cannot be mounted")
        yield disk
    finally:
        disk.close()
        subprocess.run(["umount", "-l", folder], capture_output=True, check=False)


def test_who_submits_goes_on(port: CompletionPort, disk: SlowDisk) -> None:
    with open(disk.path, "r+b", buffering=0) as file:
        port.bind(file)
        disk.held = {READ, WRITE}
        reading = port.read(file, 10, 300)
        assert not reading.done  # the server has not answered, and nobody could have told it to
        writing = port.write(file, b"written", 0)
        assert not writing.done
        disk.released.set()
        assert {port.get(LIMIT).overlapped, port.get(LIMIT).overlapped} == {reading, writing}
        assert reading.result() == DATA[300:310]
        assert writing.result() == 7


def test_a_file_that_changes_its_port(new_port: NewPort, disk: SlowDisk) -> None:
    first, second = new_port(), new_port()
    with open(disk.path, "rb", buffering=0) as file:
        first.bind(file)
        first.rebind(file, second)
        disk.held = {READ}
        reading = second.read(file, 10, 0)
        assert not reading.done
        disk.released.set()
        assert second.get(LIMIT).overlapped is reading
        assert reading.result() == DATA[:10]
