"""The parts of ``run.py`` that need no virtual machine."""

from __future__ import annotations

import gzip
import importlib.util
import json
import platform
import stat
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="kernels of Linux")


def _module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"kernels_{name}", HERE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr(sys, "path", [str(HERE), *sys.path])
    return _module("run")


def test_it_says_what_is_missing(
    run: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["run.py"])
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(run.os, "access", lambda path, mode: False)
    assert run.main() == run.SKIPPED
    assert "needs /dev/kvm" in capsys.readouterr().err
    monkeypatch.setattr(platform, "machine", lambda: "mips")
    assert run.main() == run.SKIPPED
    assert "needs an x86-64 machine, not mips" in capsys.readouterr().err


def test_user_mode_and_file_systems_say_what_is_missing(
    run: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    user_mode, file_systems = _module("user_mode"), _module("file_systems")
    monkeypatch.setattr(sys, "argv", ["a program", "true"])
    monkeypatch.setattr(platform, "machine", lambda: "mips")
    assert user_mode.main() == run.SKIPPED
    assert "needs an x86-64 machine, not mips" in capsys.readouterr().err
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert file_systems.main() == file_systems.SKIPPED
    assert "needs root" in capsys.readouterr().err
    mounts = sys.modules["mounts"]
    with pytest.raises(mounts.CannotRun, match="has no nothing_like_it"):
        mounts.has("nothing_like_it")
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(mounts.CannotRun, match="Debian's package xfsprogs"):
        mounts.call("mkfs.xfs")


def _entries(archive: bytes) -> dict[str, tuple[int, bytes]]:
    """Mode and content by name, as the kernel reads them."""
    found, at = {}, 0
    while True:
        assert archive[at : at + 6] == b"070701"
        fields = [int(archive[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)]
        mode, size, length = fields[1], fields[6], fields[11]
        name = archive[at + 110 : at + 110 + length - 1].decode()
        start = at + (110 + length + 3) // 4 * 4
        if name == "TRAILER!!!":
            return found
        found[name] = (mode, archive[start : start + size])
        at = start + (size + 3) // 4 * 4


def test_the_archive_is_what_the_kernel_reads(tmp_path: Path) -> None:
    archive = _module("initramfs").Archive(tmp_path / "initrd")
    archive.content("/a/b/file", b"content", 0o755)
    archive.link("/a/link", "b/file")
    archive.folder("/tmp")
    archive.close()
    found = _entries(gzip.decompress((tmp_path / "initrd").read_bytes()))
    assert list(found) == ["a", "a/b", "a/b/file", "a/link", "tmp"]
    assert found["a/b/file"] == (stat.S_IFREG | 0o755, b"content")
    assert found["a/link"] == (stat.S_IFLNK | 0o777, b"b/file")
    assert found["a"][0] == stat.S_IFDIR | 0o755
    assert found["tmp"][0] == stat.S_IFDIR | 0o1777


def test_results_are_counted_by_driver() -> None:
    by_driver = _module("by_driver")
    assert by_driver.driver_of("tests/x.py::test_it[epoll-8]") == "epoll"
    assert by_driver.driver_of("tests/x.py::test_it[io_uring]") == "io_uring"
    assert by_driver.driver_of("tests/x.py::test_it[8-select]") == "select"
    assert by_driver.driver_of("tests/x.py::test_epoll") == by_driver.NONE


def test_the_table_of_the_page_is_that_of_the_data(run: ModuleType) -> None:
    data: list[dict[str, Any]] = json.loads((ROOT / "docs" / "data" / "kernels.json").read_text())
    page = (ROOT / "docs" / "pages" / "kernels.md").read_text()
    assert run.table(data) in page
    data = json.loads((ROOT / "docs" / "data" / "file_systems.json").read_text())
    assert _module("file_systems").table(data) in page


@pytest.mark.exhaustive
def test_here_is_the_kernel_of_this_machine(run: ModuleType) -> None:
    """Real tests, on each driver that it has."""
    found = run.here(["tests/drivers/contract/test_wake.py"], "")
    assert (found["release"], found["kernel"]) == ("here", platform.release())
    counts = [count for driver, count in found["drivers"].items() if driver != "any"]
    assert len(counts) >= 2
    assert all(count["passed"] + count["again"] > 0 for count in counts)
    assert found["failures"] == {}
    assert "(here) | select | - |" in run.table([found])
