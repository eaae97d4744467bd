"""Make a Windows Python under Wine, build the package for it, and run the suites there.

    python tests/windows/run.py 3.13 FOLDER             everything; FOLDER is made if it is not there
    python tests/windows/run.py 3.13 FOLDER tests/loop  only these

Run by a Python that has Cython (``.[dev]``).  The tests run in a copy, without the package beside them.  What
is not run is in ``excluded.txt`` and ``mixins.txt``, and counted: "not verified" (under Wine) is no pass.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
#: Wine is slow, and the machine may be busy: a test that hangs is ended, but later than elsewhere.
PATIENCE = ("--timeout=150", "-o", "faulthandler_timeout=170")
REMEMBER = ("-o", "addopts=--strict-markers --strict-config")  # the cache of what has failed is on here
MIXINS = "CPython's tests"
SHALLOW = ("--ignore-glob=tests/*/*/test_*",)  # without the folders inside, which are suites of their own
#: What is run, and with which options.  Asked for by name, the contract is run on all variants of the driver.
SUITES: dict[str, tuple[str, ...]] = {
    "tests/windows": (),
    "tests/drivers/contract": (
        "-k",
        "not (iocp-small or iocp-noskip or iocp-noafd or iocp-foreign)",
    ),
    "tests/port": (),
    "tests/transports": SHALLOW,
    "tests/transports/datagrams": (),
    "tests/loop": SHALLOW,
    "tests/pool": (),
    "tests/drivers": SHALLOW,
    "tests/files": (),
    "tests/transports/tls": (),
    "tests/loop/processes": (),
    "tests/transports/pipes": (),
    # Each test is a Python that starts; asked for by name, all of them are run.
    "tests/cli": ("-k", "demo or probe or a_script or arguments"),
    "tests/programs/test_port_examples.py": (),
    MIXINS: (),
}
COLUMNS = ("passed", "failed", "errors", "skipped", "not for Windows", "not verified")
#: The last line of pytest, and of the plugin and mixins.py.
ENDED = re.compile(r"=* ?(\d+ \w+(, )?)+ in [\d.]+s.*")
OUTCOMES = re.compile(r"(\d+) (passed|failed|skipped|errors?)")
LEFT_OUT = re.compile(r"(not for Windows|not verified)(?: under Wine)?: (\d+)")
ECHO_SERVERS = ("echo_streams", "echo_protocol", "echo_buffered", "echo_sockets", "threaded_echo_server")
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


def echo_servers(folder: Path, examples: Path) -> int:
    """How many echo servers of the examples, on Windows, serve clients on this side of the loopback."""
    right = 0
    for name in ECHO_SERVERS:
        command = [folder / "run", f"{name}.py", "--port", "0"]
        server = subprocess.Popen(
            command, cwd=examples, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        try:
            assert server.stdout is not None
            port = int(server.stdout.readline().rpartition(":")[2])
            good = sum(echoes(port) for _ in range(CLIENTS))
        finally:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()
        print(f"--- {name}: {good} of {CLIENTS} clients served")
        right += good == CLIENTS
    return right


def echoes(port: int) -> bool:
    """Whether a client gets back what it has sent."""
    data = os.urandom(100_000)
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client, client.makefile("rb") as back:
        client.sendall(data)
        return back.read(len(data)) == data


def counted(command: list[str | Path], where: Path, env: dict[str, str]) -> tuple[Counter[str], bool]:
    """Run a suite and pass on what it prints; its counts, and whether it has passed."""
    counts: Counter[str] = Counter()
    ended = False
    process = subprocess.Popen(command, cwd=where, env=env, stdout=subprocess.PIPE, text=True)
    # Whoever does not end in time is ended, with all children; the output then ends too.
    end_all = ["env", f"WINEPREFIX={Path(command[0]).parent / 'prefix'}", "wineserver", "-k"]
    watch = threading.Timer(LIMIT, subprocess.run, (end_all,))
    watch.start()
    assert process.stdout is not None
    for line in process.stdout:
        print(line, end="", flush=True)
        found = LEFT_OUT.fullmatch(line.strip())
        if found:
            counts[found[1]] += int(found[2])
        elif ENDED.fullmatch(line.strip()):
            ended = True
            counts.update({name: int(number) for number, name in OUTCOMES.findall(line)})
    watch.cancel()
    counts["skipped"] -= counts["not for Windows"] + counts["not verified"]
    # The code of a crash may be a multiple of 256, of which nothing is left here.
    return counts, process.wait() == 0 and ended


def main(version: str, folder: Path, suites: list[str]) -> int:
    """The exit code: 0 if every suite has passed."""
    if not (folder / "run").exists():
        subprocess.run([sys.executable, HERE / "make_python.py", version, folder], check=True)
    subprocess.run([sys.executable, HERE / "build.py", folder], check=True)
    table: list[tuple[str, Counter[str], bool]] = []
    with tempfile.TemporaryDirectory() as name:
        for part in ("tests", "examples", "pyproject.toml", "README.md"):
            source, target = ROOT / part, Path(name) / part
            (shutil.copytree if source.is_dir() else shutil.copy)(source, target)
        env = {**os.environ, "PROACTORX_TEST_CERTIFICATES": str(make_certificates(Path(name)))}
        for suite in suites or SUITES:
            print(f"--- {suite}", flush=True)
            options = [
                "-q",
                *(() if suites else SUITES[suite]),
                "--durations=5",
                *PATIENCE,
                *REMEMBER,
                "--driver=iocp",
                "--no-stock",
            ]
            command = ["tests/windows/mixins.py"] if suite == MIXINS else ["-m", "pytest", suite, *options]
            started = time.monotonic()
            counts, right = counted([folder / "run", *command], Path(name), env)
            if counts["failed"] and suite != MIXINS:
                # Wine's server answers late when the machine is busy: what fails twice has failed.
                print(f"--- {suite}: once more, what has failed", flush=True)
                again, right = counted([folder / "run", *command, "--last-failed"], Path(name), env)
                counts["passed"] += again["passed"]
                counts["failed"] = again["failed"]
            table.append((suite, counts, right))
            print(f"--- {suite}: {time.monotonic() - started:.0f} s")
        if not suites:
            served = echo_servers(folder, Path(name) / "examples")
            table.append(("echo servers", Counter(passed=served), served == len(ECHO_SERVERS)))
    return summary(table, version)


def summary(table: list[tuple[str, Counter[str], bool]], version: str) -> int:
    """Print what came of the suites; the exit code."""
    print(f"\nPython {version} under Wine, driver iocp")
    print(f"{'':38}" + "".join(f"{column:>17}" for column in COLUMNS))
    total: Counter[str] = Counter()
    for suite, counts, right in table:
        total.update(counts)
        print(
            f"{suite:38}" + "".join(f"{counts[column]:17}" for column in COLUMNS) + "  FAILED" * (not right)
        )
    print(f"{'all':38}" + "".join(f"{total[column]:17}" for column in COLUMNS))
    return 0 if all(right for _, _, right in table) else 1


if __name__ == "__main__":
    if len(sys.argv) < 3:
        raise SystemExit("usage: run.py VERSION FOLDER [SUITE...]")
    sys.exit(main(sys.argv[1], Path(sys.argv[2]).resolve(), sys.argv[3:]))
