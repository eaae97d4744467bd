"""File systems of several kinds, mounted for a while."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

from run import CannotRun

SIZE = 2 << 30  # of an image, in bytes; the files are sparse
SWAP = 4 << 30
MEMORY = 160 << 20  # bytes for the processes of the tests and their tmpfs: less than they need
NAMES = ("ext4", "xfs", "btrfs", "overlay", "tmpfs", "tmpfs-swap", "fuse", "nfs")
NEEDED = {  # programs, and Debian's packages that have them
    "mkfs.ext4": "e2fsprogs",
    "mkfs.xfs": "xfsprogs",
    "mkfs.btrfs": "btrfs-progs",
    "bindfs": "bindfs",
    "mount.nfs4": "nfs-common",
    "exportfs": "nfs-kernel-server",
    "rpc.mountd": "nfs-kernel-server",
    "rpc.nfsd": "nfs-kernel-server",
}


def call(*words: str | Path) -> None:
    """Run a program of the system; what it says is why it cannot."""
    name = str(words[0])
    if shutil.which(name) is None:
        raise CannotRun(f"needs {name}: Debian's package {NEEDED.get(name, 'util-linux')} has it")
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CannotRun(f"{name}: {done.stderr.strip()}")


def has(kind: str) -> None:
    """Raise if the kernel has no such file system, not even in a module."""
    if shutil.which("modprobe"):
        subprocess.run(["modprobe", "-q", kind], check=False)
    if kind not in Path("/proc/filesystems").read_text().split():
        raise CannotRun(f"this kernel ({platform.release()}) has no {kind}")


class Machine(contextlib.ExitStack):
    """File systems that are mounted until the end, for which there is a mount namespace.

    Args:
        home: a new folder for what they need.
    """

    def __init__(self, home: Path) -> None:
        super().__init__()
        home.mkdir()
        self._home = home
        self.start: list[str] = []  # the words before those of a command that uses the file system

    def make(self, name: str) -> Path:
        """The folder of a new file system of this name, one of NAMES."""
        if name == "overlay":
            disk = self._image("ext4")
            for part in ("lower", "upper", "work"):
                (disk / part).mkdir()
            options = f"lowerdir={disk}/lower,upperdir={disk}/upper,workdir={disk}/work"
            return self._mount("overlay", kind="overlay", options=options)
        if name == "tmpfs":
            return self._mount("tmpfs", kind="tmpfs")
        if name == "tmpfs-swap":
            self._swap()
            return self._mount("tmpfs", kind="tmpfs", options=f"size={SWAP}")
        if name == "fuse":
            has("fuse")
            return self._on("fuse", "bindfs", self._image("ext4"))
        if name == "nfs":
            return self._nfs()
        return self._image(name)

    def _on(self, kind: str, *words: str | Path) -> Path:
        """Mount by these words on a new folder."""
        folder = self._home / f"on-{kind}"
        folder.mkdir()
        call(*words, folder)
        self.callback(call, "umount", "-l", folder)
        return folder

    def _mount(self, source: str | Path, kind: str, options: str = "rw") -> Path:
        has(kind)
        return self._on(kind, "mount", "-t", kind, "-o", options, source)

    def _image(self, kind: str) -> Path:
        image = self._home / kind
        with image.open("wb") as file:
            file.truncate(SIZE)
        call(f"mkfs.{kind}", "-q", image)
        return self._mount(image, kind, "loop")

    def _nfs(self) -> Path:
        """NFS 4 from the server in the same kernel, of an ext4."""
        has("nfsd")
        has("nfs4")
        control, state = Path("/proc/fs/nfsd"), Path("/var/lib/nfs")
        if not (control / "threads").exists():
            call("mount", "-t", "nfsd", "nfsd", control)
        if int((control / "threads").read_text()):
            raise CannotRun("there is an NFS server already")
        if not state.exists():
            raise CannotRun(f"needs {state}: Debian's package nfs-common has it")
        share = self._image("ext4")
        call("mount", "-t", "tmpfs", "tmpfs", state)
        (state / "etab").touch()
        call("exportfs", "-i", "-o", "rw,no_root_squash,insecure,fsid=0", f"127.0.0.1:{share}")
        call("rpc.mountd", "-N", "3")
        # For 10 seconds, and not 90, the server waits for clients of an earlier one.
        call("rpc.nfsd", "-N", "3", "-G", "10", "-L", "10", "2")
        self.callback(call, "rpc.nfsd", "0")
        return self._on("nfs", "mount.nfs4", "127.0.0.1:/")

    def _swap(self) -> None:
        """A swap file, and a cgroup whose processes have little memory."""
        found = re.search(r"^\d+:memory:(.*)$", Path("/proc/self/cgroup").read_text(), re.MULTILINE)
        top, limit = Path("/sys/fs/cgroup"), "memory.max"
        if found:  # the first version: groups of memory alone
            top, limit = top / "memory" / found[1].lstrip("/"), "memory.limit_in_bytes"
        group, swap = top / f"proactorx-{os.getpid()}", self._home / "swap"
        try:
            group.mkdir()
            self.callback(group.rmdir)
            (group / limit).write_text(str(MEMORY))
        except OSError as error:
            raise CannotRun(f"no cgroup of memory: {error}") from error
        swap.touch(0o600)
        call("fallocate", "-l", str(SWAP), swap)
        call("mkswap", swap)
        call("swapon", swap)
        self.callback(call, "swapoff", swap)
        self.callback(_empty, group)
        self.start = ["sh", "-c", f'echo $$ > {group}/cgroup.procs; exec "$@"', "sh"]


def _empty(group: Path) -> None:
    """End the processes that tests have left in a cgroup."""
    while left := (group / "cgroup.procs").read_text().split():
        for number in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(number), signal.SIGKILL)
        time.sleep(0.1)
