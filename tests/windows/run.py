"""Make a Windows Python under Wine, build the package for it, and run the suites there.

    python tests/windows/run.py 3.13 FOLDER             everything; FOLDER is made if it is not there
    python tests/windows/run.py 3.13 FOLDER tests/loop  only these

Run by a Python that has Cython (``.[dev]``).  The tests run in a copy, without the package beside them.  What is not
run is in ``excluded.txt`` and ``mixins.txt``, and counted: "not verified under Wine" is no pass.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SUITES = ("tests/windows", "tests/contract", "tests/transports", "tests/datagrams", "tests/loop", "tests/tls")
ECHO_SERVERS = ("echo_streams", "echo_protocol", "echo_buffered", "echo_sockets")
CLIENTS = 20
LIMIT = 1500  # seconds for a suite


def make_certificates(folder: Path) -> Path:
    """A certificate and its key, for the tests of TLS: there is no openssl command under Wine."""
    command = ["openssl", "req", "-x509", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    command += ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    command += ["-keyout", str(folder / "key.pem"), "-out", str(folder / "certificate.pem")]
    subprocess.run(command, check=True, capture_output=True)
    return folder


def echo_servers(folder: Path, examples: Path) -> bool:
    """Whether the echo servers of the examples, on Windows, serve clients on this side of the loopback."""
    right = True
    for name in ECHO_SERVERS:
        command = [folder / "run", f"{name}.py", "--port", "0"]
        server = subprocess.Popen(command, cwd=examples, stdout=subprocess.PIPE, text=True, start_new_session=True)
        try:
            assert server.stdout is not None
            port = int(server.stdout.readline().rpartition(":")[2])
            good = sum(echoes(port) for _ in range(CLIENTS))
        finally:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()
        print(f"--- {name}: {good} of {CLIENTS} clients served")
        right = right and good == CLIENTS
    return right


def echoes(port: int) -> bool:
    """Whether a client gets back what it has sent."""
    data = os.urandom(100_000)
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client, client.makefile("rb") as back:
        client.sendall(data)
        return back.read(len(data)) == data


def main(version: str, folder: Path, suites: list[str]) -> int:
    """The exit code: 0 if every suite has passed."""
    if not (folder / "run").exists():
        subprocess.run([sys.executable, HERE / "make_python.py", version, folder], check=True)
    subprocess.run([sys.executable, HERE / "build.py", folder], check=True)
    failed = []
    with tempfile.TemporaryDirectory() as name:
        for part in ("tests", "examples", "pyproject.toml", "README.md"):
            source, target = ROOT / part, Path(name) / part
            (shutil.copytree if source.is_dir() else shutil.copy)(source, target)
        env = {**os.environ, "PROACTORX_TEST_CERTIFICATES": str(make_certificates(Path(name)))}
        commands = {suite: ["-m", "pytest", "-q", suite, "--driver=iocp", "--no-stock"] for suite in suites or SUITES}
        if not suites:
            commands["CPython's tests"] = ["tests/windows/mixins.py"]
        for title, command in commands.items():
            print(f"--- {title}", flush=True)
            try:
                subprocess.run([folder / "run", *command], cwd=name, env=env, timeout=LIMIT, check=True)
            except subprocess.SubprocessError:  # failed, or not done in time
                failed.append(title)
        if not suites and not echo_servers(folder, Path(name) / "examples"):
            failed.append("echo servers")
    print("failed: " + ", ".join(failed) if failed else f"all passed, Python {version} under Wine")
    return 1 if failed else 0


if __name__ == "__main__":
    if len(sys.argv) < 3:
        raise SystemExit("usage: run.py VERSION FOLDER [SUITE...]")
    sys.exit(main(sys.argv[1], Path(sys.argv[2]).resolve(), sys.argv[3:]))
