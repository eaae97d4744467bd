"""The first program of the machine: makes the usual file systems, runs the tests, and switches off."""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import platform
import socket
import struct
import subprocess
import sys
import traceback
from collections.abc import Sequence
from typing import Any, NamedTuple

libc = ctypes.CDLL(None, use_errno=True)

SIZE_OF_DISK = 1 << 30
INIT_MODULE, FINIT_MODULE = 175, 313
LOOP_SET_FD = 0x4C00
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1
POWER_OFF = 0x4321FEDC
ENVIRONMENT = {
    "PATH": "/bin:/usr/bin:/sbin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "PYTHONPATH": "/suite:/site:/suite/tests/kernels",
    "PYTHONDONTWRITEBYTECODE": "1",
}


def mount(source: str, target: str, kind: str, options: str = "") -> None:
    """Call mount(2)."""
    if libc.mount(source.encode(), target.encode(), kind.encode(), 0, options.encode()):
        raise OSError(ctypes.get_errno(), f"mount {kind} on {target}")


def lo_up() -> None:
    """Bring the loopback interface up, ::1 included."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        request = struct.pack("16sH14x", b"lo", 0)
        flags = struct.unpack("16sH14x", fcntl.ioctl(sock, SIOCGIFFLAGS, request))[1]
        fcntl.ioctl(sock, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", flags | IFF_UP))


def disk() -> str:
    """Make a disk with ext4 of a file, and return a folder on it; in memory where the kernel cannot."""
    try:
        module = os.open("/modules/loop.ko", os.O_RDONLY)
        if libc.syscall(FINIT_MODULE, module, b"", 0):
            raise OSError(ctypes.get_errno(), "loop.ko")
        os.close(module)
        file = os.open("/run/disk", os.O_RDWR | os.O_CREAT)
        os.truncate(file, SIZE_OF_DISK)
        subprocess.run(["/bin/mkfs.ext4", "-q", "-F", "/run/disk"], check=True)
        device = os.open("/dev/loop0", os.O_RDWR)
        fcntl.ioctl(device, LOOP_SET_FD, file)
        mount("/dev/loop0", "/disk", "ext4")
    except (OSError, subprocess.CalledProcessError) as error:
        print("no ext4:", error, flush=True)
        return "/tmp"
    os.mkdir("/disk/tmp", 0o777)
    return "/disk/tmp"


def prepare() -> None:
    """What an ordinary system has made before anybody logs in."""
    mount("proc", "/proc", "proc")
    mount("sys", "/sys", "sysfs")
    mount("dev", "/dev", "devtmpfs")
    os.makedirs("/dev/pts", exist_ok=True)
    os.makedirs("/dev/shm", exist_ok=True)
    mount("pts", "/dev/pts", "devpts", "ptmxmode=0666")
    mount("shm", "/dev/shm", "tmpfs")
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if not os.path.lexists(f"/dev/{name}"):
            os.symlink(f"/proc/self/fd/{number}", f"/dev/{name}")
    if not os.path.lexists("/dev/fd"):
        os.symlink("/proc/self/fd", "/dev/fd")
    socket.sethostname("localhost")
    lo_up()


class Place(NamedTuple):
    """Where tests run."""

    suite: str = "/suite"  # the folder that has the folder of the tests
    environment: dict[str, str] = ENVIRONMENT
    results: str = "/run/results.json"
    start: Sequence[str] = ()  # the words before those of the command

    def python(self, *words: str, out: int | None = None) -> subprocess.CompletedProcess[bytes]:
        """Run Python as a user would."""
        argv = [*self.start, sys.executable, *words]
        return subprocess.run(
            argv, cwd=self.suite, env=self.environment, stdin=subprocess.DEVNULL, stdout=out
        )


def run(orders: dict[str, Any], folder: str, place: Place) -> dict[str, Any]:
    """Run the tests, those that fail a second time."""
    said = place.python("-m", "proactorx", "probe", "--json", out=subprocess.PIPE)
    tiers = {one["name"]: one["tier"] for one in json.loads(said.stdout)["drivers"]}
    options = ["-m", "pytest", "-p", "by_driver", "-q", "--color=no", "--no-stock", "--tb=short", "-rs"]
    options += ["-o", "faulthandler_timeout=0", f"--timeout={orders['timeout']}"]
    place = place._replace(environment=place.environment | {"TMPDIR": folder, "RESULTS": place.results})
    print("\nready:", ", ".join(tiers), flush=True)
    workers = ["-n", str(orders["workers"]), "--dist", "loadfile"]
    place.python(*options, *workers, *orders["marks"], *orders["tests"])
    with open(place.results) as file:
        first = json.load(file)
    failures = first["failures"]
    if failures:
        os.unlink(place.results)
        place.python(*options, "-n", "0", *failures)
        with open(place.results) as file:
            second = json.load(file)
        for driver, counts in first["drivers"].items():
            counts["failed"] = second["drivers"].get(driver, {}).get("failed", 0)
            counts["again"] = second["drivers"].get(driver, {}).get("passed", 0)
        failures = second["failures"]
    return {
        "kernel": platform.release(),
        "files": "ext4" if folder.startswith("/disk") else "tmpfs",
        "python": platform.python_version(),
        "tiers": tiers,
        "drivers": first["drivers"],
        "failures": failures,
    }


def main() -> None:
    try:
        prepare()
        with open("/orders.json") as file:
            orders = json.load(file)
        result = run(orders, disk(), Place())
        print("\n@@RESULT " + json.dumps(result), flush=True)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os.sync()
        libc.reboot(POWER_OFF)


if __name__ == "__main__":
    main()
