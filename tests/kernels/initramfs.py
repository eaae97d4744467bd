"""Writes the initramfs: this Python, its libraries, the package, the tests and a few programs."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
SUITE = "/suite"
#: What tests call; those that are not here are left out.
PROGRAMS = (
    "sh",
    "cat",
    "true",
    "false",
    "sleep",
    "echo",
    "ls",
    "head",
    "seq",
    "env",
    "tr",
    "openssl",
    "mkfs.ext4",
    "kill",
)
#: Of the packages that are installed, what tests import.
PACKAGES = re.compile(
    r"(_?pytest|py|pluggy|iniconfig|packaging|pytest_asyncio|pytest_timeout|xdist|execnet|_?hypothesis\w*"
    r"|sortedcontainers|attrs?|aiofiles|pygments|typing_extensions|uvloop)(\.py)?"
)
METADATA = re.compile(
    r"(pytest|pytest_asyncio|pytest_timeout|pytest_xdist|hypothesis|pluggy|aiofiles|uvloop)-.*\.dist-info"
)
NOT_OF_PYTHON = {
    "test",
    "idlelib",
    "tkinter",
    "turtledemo",
    "ensurepip",
    "site-packages",
    "lib2to3",
    "__pycache__",
    "pydoc_data",
}
NOT_OF_PACKAGE = (".c", ".o", ".html")
ETC = ("passwd", "group", "hosts", "nsswitch.conf", "services", "protocols", "ssl/openssl.cnf", "mke2fs.conf")


class Archive:
    """A cpio archive in the format "newc", which the kernel unpacks."""

    def __init__(self, path: Path) -> None:
        self._file = gzip.open(path, "wb", compresslevel=1)  # noqa: SIM115, closed in close()
        self._number = 0
        self._names: set[str] = set()

    def close(self) -> None:
        self._entry("TRAILER!!!", 0, b"")
        self._file.close()

    def _entry(self, name: str, mode: int, content: bytes) -> None:
        self._number += 1
        raw = name.encode() + b"\0"
        fields = (self._number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(raw), 0)
        head = b"070701" + b"".join(b"%08X" % field for field in fields) + raw
        self._file.write(head + b"\0" * (-len(head) % 4) + content + b"\0" * (-len(content) % 4))

    def folder(self, name: str) -> None:
        """A folder, and those that it is in."""
        if name in ("", "/") or name in self._names:
            return
        self.folder(os.path.dirname(name))
        self._names.add(name)
        self._entry(name.lstrip("/"), stat.S_IFDIR | (0o1777 if name in ("/tmp", "/dev/shm") else 0o755), b"")

    def content(self, name: str, content: bytes, mode: int = 0o644) -> None:
        """A file."""
        if name not in self._names:
            self.folder(os.path.dirname(name))
            self._names.add(name)
            self._entry(name.lstrip("/"), stat.S_IFREG | mode, content)

    def link(self, name: str, target: str) -> None:
        """A symbolic link."""
        if name not in self._names:
            self.folder(os.path.dirname(name))
            self._names.add(name)
            self._entry(name.lstrip("/"), stat.S_IFLNK | 0o777, target.encode())

    def add(self, source: Path, name: str | None = None) -> None:
        """A file of this machine, at its own path unless there is a name."""
        self.content(name or str(source), source.read_bytes(), stat.S_IMODE(source.stat().st_mode))


def libraries(files: list[Path]) -> set[Path]:
    """The shared libraries that these need, the loader included."""
    found: set[Path] = set()
    for start in range(0, len(files), 200):
        said = subprocess.run(
            ["ldd", *files[start : start + 200]], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        found |= {Path(path) for path in re.findall(r"(/\S+) \(0x", said.stdout)}
    return found


def _tree(folder: Path, without: set[str], suffixes: tuple[str, ...] = ()) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.name in without or path.name == "__pycache__" or path.name.startswith("config-3"):
            continue
        if path.is_dir():
            yield from _tree(path, set(), suffixes)
        elif path.suffix not in suffixes:
            yield path


def write(path: Path, modules: dict[str, bytes], orders: dict) -> None:
    """Write the initramfs; guest.py reads the orders."""
    import proactorx

    package = Path(proactorx.__file__).parent
    python = Path(sys.executable).resolve()
    standard, site = (Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib"))
    archive = Archive(path)
    binaries = [python]
    for name in ("/proc", "/sys", "/dev/shm", "/dev/pts", "/tmp", "/disk", "/run", "/root"):
        archive.folder(name)
    for one in _tree(standard, NOT_OF_PYTHON):
        archive.add(one)
        binaries += [one] if ".so" in one.name else []
    for one in sorted(site.iterdir()):
        if PACKAGES.fullmatch(one.name) or METADATA.fullmatch(one.name):
            for inner in _tree(one, set()) if one.is_dir() else [one]:
                archive.add(inner, f"/site/{inner.relative_to(site)}")
                binaries += [inner] if ".so" in inner.name else []
    for one in _tree(package, set(), NOT_OF_PACKAGE):
        archive.add(one, f"{SUITE}/proactorx/{one.relative_to(package)}")
        binaries += [one] if ".so" in one.name else []
    for folder in ("tests", "examples"):
        for one in _tree(ROOT / folder, set()):
            archive.add(one, f"{SUITE}/{one.relative_to(ROOT)}")
    archive.add(ROOT / "pyproject.toml", f"{SUITE}/pyproject.toml")
    for program in PROGRAMS:
        found = shutil.which(program, path="/usr/bin:/bin:/usr/sbin:/sbin")
        if found is not None:
            archive.add(Path(found).resolve(), f"/bin/{program}")
            binaries.append(Path(found).resolve())
    for name in ("/usr/bin", "/usr/sbin"):
        archive.link(name, "/bin")
    archive.add(python)
    archive.link("/bin/python3", str(python))
    for library in sorted(libraries(binaries)):
        archive.add(library.resolve(), str(library))
        archive.add(library.resolve(), f"/lib/x86_64-linux-gnu/{library.name}")
    for name in ETC:
        if Path("/etc", name).exists():
            archive.add(Path("/etc", name), f"/etc/{name}")
    archive.link("/usr/lib/ssl/openssl.cnf", "/etc/ssl/openssl.cnf")
    for name, content in modules.items():
        archive.content(f"/modules/{name}", content)
    archive.content("/orders.json", json.dumps(orders).encode())
    script = Path(__file__).with_name("guest.py").read_bytes()
    archive.content("/init", f"#!{python}\n".encode() + script, 0o755)
    archive.close()
