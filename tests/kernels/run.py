"""Run the tests of drivers, transports, files and ports on kernels of several Debian releases.

    python tests/kernels/run.py [--kernels bookworm,bookworm-backports,unstable] [--json FILE] [--emulate]
                                  [-m MARKS] [TEST ...]
    python tests/kernels/run.py --here [--json FILE] [-m MARKS] [TEST ...]     on the kernel that runs this
    python tests/kernels/run.py --table FILE ...      print the table of earlier runs

Needs /dev/kvm, apt and this Python with the package and the extra `test`; says so where they are missing,
with exit code 77.  QEMU and the kernels are downloaded as packages, unpacked in $PROACTORX_KERNELS (default
~/.cache/proactorx-kernels) and kept there: nothing is installed.  Each runs in a virtual machine with one
processor, no disk and no network; its initramfs (initramfs.py) holds this Python, the package and the tests,
and guest.py runs them there.
"""

from __future__ import annotations

import argparse
import json
import lzma
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import guest
import initramfs

RELEASES = ("bookworm", "bookworm-backports", "unstable")
SUITES = ("tests/drivers", "tests/transports", "tests/files", "tests/port")
CACHE = Path(os.environ.get("PROACTORX_KERNELS", Path.home() / ".cache" / "proactorx-kernels"))
ROOT = Path(__file__).parents[2]
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
META = "linux-image-cloud-amd64"
SKIPPED = 77  # the exit code that test harnesses take for "not run"
MEMORY = "3072"  # MiB
PATIENCE = 1500.0  # seconds for a machine


class CannotRun(Exception):
    """What is missing."""


def check(emulate: bool) -> None:
    """Raise if no machine can run here."""
    if platform.machine() != "x86_64":
        raise CannotRun(f"needs an x86-64 machine, not {platform.machine()}")
    if not emulate and not os.access("/dev/kvm", os.R_OK | os.W_OK):
        raise CannotRun("needs /dev/kvm; --emulate does without, and is slow")
    if not emulate and Path("/sys/module/kvm_pvm").exists():
        raise CannotRun(
            "/dev/kvm is that of kvm_pvm, which runs kernels that are built for it; Debian's stop before "
            "their first message; --emulate does without /dev/kvm, and is slow"
        )
    for program in ("apt-get", "dpkg"):
        if shutil.which(program) is None:
            raise CannotRun(f"needs the program {program}: kernels and QEMU are Debian's packages")


class Apt:
    """Packages of one Debian release, by an apt with lists of its own for which nothing is installed."""

    def __init__(self, release: str) -> None:
        self._release, self._home = release, CACHE / "apt" / release
        for folder in ("lists/partial", "archives/partial"):
            (self._home / folder).mkdir(parents=True, exist_ok=True)
        (self._home / "status").touch()
        mirror = "http://deb.debian.org/debian"
        suites = dict.fromkeys([release, *(["bookworm"] if release.startswith("bookworm") else [])])
        (self._home / "sources.list").write_text(
            "".join(f"deb [signed-by={KEYRING}] {mirror} {suite} main\n" for suite in suites)
        )
        self._call("apt-get", "update")

    def _call(self, *words: str) -> str:
        options = {
            "Dir::Etc::sourcelist": self._home / "sources.list",
            "Dir::Etc::sourceparts": "-",
            "Dir::State::lists": self._home / "lists",
            "Dir::State::status": self._home / "status",
            "Dir::Cache": self._home,
            "Acquire::Languages": "none",
            "APT::Sandbox::User": "root",
            "APT::Default-Release": self._release,
        }
        argv = [words[0], "-qq", *(f"-o{name}={value}" for name, value in options.items()), *words[1:]]
        return subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True, cwd=self._home).stdout

    def needed(self, package: str, start: str) -> list[str]:
        """The packages whose names begin with `start` that this one depends on."""
        found = re.findall(r"^ *Depends: (\S+)", self._call("apt-cache", "depends", package), re.MULTILINE)
        return [name for name in found if name.startswith(start)]

    def download(self, names: list[str], tree: Path, *, whole: bool) -> None:
        """Unpack these packages, and with `whole` all that they need, in a folder."""
        if whole:
            self._call("apt-get", "install", "-y", "--no-install-recommends", "--download-only", *names)
            found = list((self._home / "archives").glob("*.deb"))
        else:
            self._call("apt-get", "download", *names)
            found = [path for name in names for path in self._home.glob(f"{name}_*.deb")]
        tree.mkdir(parents=True, exist_ok=True)
        for path in found:
            subprocess.run(["dpkg", "-x", path, tree], check=True)
            path.unlink()


def qemu() -> list[str]:
    """The command of QEMU, unpacked in the cache with its own C library."""
    tree = CACHE / "qemu"
    if not (tree / "whole").exists():
        shutil.rmtree(tree, ignore_errors=True)
        Apt("bookworm").download(["qemu-system-x86"], tree, whole=True)
        (tree / "whole").touch()
    libraries = ":".join(f"{tree}/{folder}/x86_64-linux-gnu" for folder in ("usr/lib", "lib"))
    loader = next(path for path in (tree / "lib64", tree / "lib") if (path / "ld-linux-x86-64.so.2").exists())
    start = [str(loader / "ld-linux-x86-64.so.2"), "--library-path", libraries]
    return [
        *start,
        f"{tree}/usr/bin/qemu-system-x86_64",
        "-L",
        f"{tree}/usr/share/qemu",
        "-L",
        f"{tree}/usr/share/seabios",
    ]


def kernel(release: str) -> Path:
    """The folder of a release's newest kernel for virtual machines."""
    tree = CACHE / "kernels" / release
    if not (tree / "whole").exists():
        shutil.rmtree(tree, ignore_errors=True)
        apt = Apt(release)
        (name,) = apt.needed(META, "linux-image-")[-1:]
        # Newer releases split a kernel into several packages.
        version = name.removeprefix("linux-image-")
        parts = [part for part in apt.needed(name, "linux-") if part.endswith(version)]
        apt.download([name, *parts], tree, whole=False)
        (tree / "whole").touch()
    return tree


def boot_files(tree: Path) -> tuple[Path, dict[str, bytes]]:
    """The kernel's image, and the modules that the machine loads."""
    (vmlinuz,) = [path for path in tree.rglob("vmlinuz*") if path.is_file()]
    modules = {}
    for path in tree.rglob("loop.ko*"):
        content = path.read_bytes()
        modules["loop.ko"] = lzma.decompress(content) if path.suffix == ".xz" else content
    return vmlinuz, modules


def boot(release: str, tests: list[str], marks: str, emulate: bool) -> dict:
    """What the tests say on this kernel."""
    vmlinuz, modules = boot_files(kernel(release))
    initrd = CACHE / f"initrd-{release}"
    orders = {"tests": tests, "workers": 0 if emulate else 2, "timeout": 900 if emulate else 120}
    orders["marks"] = ["-m", marks] if marks else []
    initramfs.write(initrd, modules, orders)
    append = "console=ttyS0 quiet panic=-1 rdinit=/init"
    # KVM in a virtual machine may lack the register of arch-capabilities. QEMU 7.2 executes the cmpxchg16b of
    # Linux 6.12 wrongly, with which its allocator crashes at boot: without the feature the kernel uses none.
    how = (
        ["-accel", "tcg", "-cpu", "max,-cx16"]
        if emulate
        else ["-accel", "kvm", "-cpu", "host,-arch-capabilities"]
    )
    argv = ["nice", "-n", "10", *qemu(), *how, "-smp", "1", "-m", MEMORY]
    argv += ["-nographic", "-no-reboot", "-nodefaults", "-serial", "stdio", "-net", "none"]
    argv += ["-kernel", str(vmlinuz), "-initrd", str(initrd), "-append", append]
    machine = subprocess.Popen(
        argv,
        env=os.environ | {"QEMU_MODULE_DIR": f"{CACHE}/qemu/usr/lib/x86_64-linux-gnu/qemu"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    clock = threading.Timer(PATIENCE * (4 if emulate else 1), machine.kill)
    clock.start()
    try:
        with (CACHE / f"{release}.log").open("w") as log:
            found = list(_results(machine, log))
    finally:
        clock.cancel()
        machine.kill()
        machine.wait()
        initrd.unlink()
    if not found:
        raise SystemExit(f"{release}: no result, see {CACHE / release}.log")
    return {"release": release, **found[-1]}


def here(tests: list[str], marks: str) -> dict:
    """What the tests say on the kernel that runs this, with files in the temporary folder."""
    user_mode = "User Mode Linux" in Path("/proc/cpuinfo").read_text()
    orders = {"tests": tests, "marks": ["-m", marks] if marks else [], "workers": 0, "timeout": 900}
    with tempfile.TemporaryDirectory(prefix="proactorx-") as folder:
        os.chmod(folder, 0o755)  # tests become another user
        environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT}/tests/kernels"}
        result = guest.run(orders, folder, guest.Place(str(ROOT), environment, f"{folder}/results.json"))
    return {"release": "user-mode-linux" if user_mode else "here", **result, "files": "its own"}


def _results(machine: subprocess.Popen[bytes], log) -> Iterator[dict]:
    assert machine.stdout is not None
    for raw in machine.stdout:
        line = raw.decode(errors="replace")
        log.write(line)
        log.flush()
        if line.startswith("@@RESULT "):
            yield json.loads(line.removeprefix("@@RESULT "))


def table(results: list[dict]) -> str:
    """The table of the page, in Markdown."""
    lines = [
        "| kernel | driver | tier | passed | passed when tried again | failed | skipped |",
        "|---|---|---|---:|---:|---:|---:|",
    ]
    for result in results:
        for driver, counts in result["drivers"].items():
            figures = [counts[key] for key in ("passed", "again", "failed", "skipped")]
            tier = result["tiers"].get(driver, "") or "-"
            cells = [f"{result['kernel']} ({result['release']})", driver, tier, *(f"{n:,}" for n in figures)]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def tell(results: list[dict], of: str, file: Path | None) -> int:
    """Print what has failed, each under its `of`, and write the results; the exit code."""
    for result in results:
        for test, text in result["failures"].items():
            print(f"\n{result[of]}: {test}\n{text}")
    if file is not None:
        file.write_text(json.dumps(results, indent=1) + "\n")
    return 1 if any(result["failures"] for result in results) else 0


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kernels", default=",".join(RELEASES))
    parser.add_argument("--emulate", action="store_true", help="without /dev/kvm: slow")
    parser.add_argument("-m", default="", metavar="MARKS", help="as pytest's")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--here", action="store_true", help="no machine: on the kernel that runs this")
    parser.add_argument("--table", type=Path, nargs="+")
    parser.add_argument("tests", nargs="*", default=list(SUITES), metavar="TEST")
    options = parser.parse_args()
    if options.table is not None:
        print(table([result for path in options.table for result in json.loads(path.read_text())]))
        return 0
    if options.here:
        result = here(options.tests, options.m)
        print(table([result]))
        return tell([result], "kernel", options.json)
    try:
        check(options.emulate)
    except CannotRun as why:
        print(f"skipped: {why}", file=sys.stderr)
        return SKIPPED
    CACHE.mkdir(parents=True, exist_ok=True)
    results = [
        boot(release, options.tests, options.m, options.emulate) for release in options.kernels.split(",")
    ]
    print(table(results))
    return tell(results, "kernel", options.json)


if __name__ == "__main__":
    sys.exit(main())
