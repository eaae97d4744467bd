"""Run a command on the kernel of Debian's package user-mode-linux, which is a process of this machine.

    python tests/kernels/user_mode.py [--memory 4G] [--patience SECONDS] COMMAND ...
    python tests/kernels/user_mode.py python -m pytest -n 0 tests/files

Needs no /dev/kvm, and emulates no processor.  The command sees the files of this machine, which it can only
read, but for those below the current folder; /tmp is its own, and so is the network, which has nothing but
loopback.  It has one processor.  The exit code is the command's, or 77 where this cannot run.  The kernel and
its C library are downloaded as packages and unpacked in $PROACTORX_KERNELS (default
~/.cache/proactorx-kernels): nothing is installed.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import run

RELEASE = "unstable"  # that of Debian 12, 6.1, knows no processor that has more registers than AVX-512's
MODULES = "loop overlay fuse xfs btrfs nfs nfsv4 nfsd tls gcm ctr seqiv chacha20poly1305 chacha"
LOADER = b"/lib64/ld-linux-x86-64.so.2\0"
INIT = """#!/bin/bash
mount -t proc proc /proc; mount -t sysfs sys /sys
for folder in /tmp /run /var/lib /dev/shm; do mkdir -p $folder; mount -t tmpfs tmpfs $folder; done
mkdir -p /dev/pts; mount -t devpts -o ptmxmode=0666 pts /dev/pts
for part in fd stdin:fd/0 stdout:fd/1 stderr:fd/2; do
  [ -e /dev/${{part%:*}} ] || ln -s /proc/self/${{part#*:}} /dev/${{part%:*}}
done
chmod 1777 /tmp /dev/shm; mkdir -p /var/lib/nfs
mkdir -p {here}; mount -t hostfs -o {here} none {here}
ip link set lo up
(exec -a modprobe {tree}/bin/kmod -d {tree} -a {modules})
cd {here}
{exports}
{command}
echo "@@EXIT $?"
sync
echo o > /proc/sysrq-trigger
sleep 9
"""


def tree() -> Path:
    """The folder of the kernel, its modules and its C library."""
    tree = run.CACHE / "user-mode"
    if not (tree / "whole").exists():
        run.Apt(RELEASE).download(["user-mode-linux", "libc6"], tree, whole=False)
        run.Apt("bookworm").download(["kmod"], tree, whole=False)
        (tree / "lib" / "modules").symlink_to(tree / "usr/lib/uml/modules")
        # Its C library is newer than that of this machine: the kernel starts with the loader of its folder.
        program = (tree / "usr/bin/linux.uml").read_bytes()
        (tree / "linux").write_bytes(program.replace(LOADER, b"ld.so".ljust(len(LOADER), b"\0")))
        (tree / "linux").chmod(0o755)
        (tree / "ld.so").symlink_to("usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2")
        (tree / "whole").touch()
    return tree


def boot(command: list[str], memory: str, patience: float) -> int:
    """Run the command; its exit code."""
    files = tree()
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "PYTHONPATH", "LANG") if name in os.environ}
    exports = "\n".join(f"export {name}={shlex.quote(value)}" for name, value in kept.items())
    words = {"here": shlex.quote(os.getcwd()), "tree": files, "modules": MODULES, "exports": exports}
    code = 1  # of a kernel that ends before the command
    with tempfile.NamedTemporaryFile("w", suffix=".sh", dir=run.CACHE) as init:
        init.write(INIT.format(**words, command=shlex.join(command)))
        init.flush()
        os.chmod(init.name, 0o755)
        argv = [f"{files}/linux", "root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro", f"mem={memory}"]
        argv += [f"init={init.name}", "con=null", "con0=fd:0,fd:1", "quiet"]
        machine = subprocess.Popen(
            argv,
            cwd=files,
            env={**os.environ, "LD_LIBRARY_PATH": f"{files}/usr/lib/x86_64-linux-gnu"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        )
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # as timeout(1) ends this: the kernel ends too
        clock = threading.Timer(patience, machine.kill)
        clock.start()
        assert machine.stdout is not None
        try:
            for raw in machine.stdout:
                line = raw.decode(errors="replace").rstrip("\r\n")
                if line.startswith("@@EXIT "):
                    code = int(line.split()[1])
                else:
                    print(line, flush=True)
        finally:
            clock.cancel()
            machine.kill()
            machine.wait()
    return code


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--memory", default="4G")
    parser.add_argument("--patience", type=float, default=3600.0, metavar="SECONDS")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    try:
        run.check(emulate=True)
        if shutil.which("ip") is None:
            raise run.CannotRun("needs the program ip: Debian's package iproute2 has it")
    except run.CannotRun as why:
        print(f"skipped: {why}", file=sys.stderr)
        return run.SKIPPED
    return boot(options.command, options.memory, options.patience)


if __name__ == "__main__":
    sys.exit(main())
