"""The pages on deployment, done as they say: files and commands of a page, with the real programs."""

from __future__ import annotations

import ctypes
import errno
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from serving import Program, call, complaints, environment, running
from support.pages import PAGES, blocks, command_argv, sections, write_files
from support.ports import unused_port

DEPLOY = PAGES / "deploy"
PAGE = DEPLOY / "servers.md"
if sys.platform != "linux" or not PAGES.exists():
    pytest.skip("the pages are of Linux, and lie beside the sources", allow_module_level=True)

import under_profile  # noqa: E402

pytestmark = pytest.mark.programs

#: What the sections need beside uvicorn.
NEEDED = {
    "uvicorn": "uvicorn",
    "gunicorn": "uvicorn_worker",
    "hypercorn": "hypercorn",
    "granian": "granian",
    "FastAPI and Starlette": "fastapi",
    "aiohttp": "aiohttp",
}


def _get(url: str, server: Program, patience: float = 20) -> bytes:
    """What it answers, once it does."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    until = time.monotonic() + patience
    while True:
        try:
            with opener.open(url, timeout=5) as answer:
                return bytes(answer.read())
        except OSError:
            if time.monotonic() > until or server.process.poll() is not None:
                server.fail("did not answer")
            time.sleep(0.05)


def _files(pid: int) -> list[str]:
    """What the descriptors of a process and its children lead to."""
    pids = [pid]
    for one in pids:
        pids += map(int, Path(f"/proc/{one}/task/{one}/children").read_text().split())
    links = [link for one in pids for link in Path(f"/proc/{one}/fd").iterdir()]
    return [os.readlink(link) for link in links if os.path.lexists(link)]


def test_every_section_with_a_command_is_tested() -> None:
    with_command = {title for title, text in sections(PAGE).items() if blocks(text, "sh")}
    assert with_command == {*NEEDED, "A program that makes its loop itself"}


@pytest.mark.parametrize("title", NEEDED)
def test_a_server_runs_as_its_section_says(title: str, driver_name: str, tmp_path: Path) -> None:
    if importlib.util.find_spec(NEEDED[title]) is None:
        pytest.skip(f"needs {NEEDED[title]}")
    port = unused_port()
    ports = {"8000": str(port)}
    text = sections(PAGE)[title]
    write_files(sections(PAGE)[""], tmp_path, ports)
    write_files(text, tmp_path, ports)
    env = environment(driver_name)
    env["PYTHONPATH"] += os.pathsep + str(tmp_path)
    (command,) = blocks(text, "sh")
    with running(*command_argv(command, ports), env=env, cwd=tmp_path) as server:
        assert b"Hello, world" in _get(f"http://127.0.0.1:{port}/", server)
        on_a_ring = any("io_uring" in name for name in _files(server.process.pid))
        assert on_a_ring == (driver_name == "io_uring")
        server.stop(signal.SIGINT if title == "hypercorn" else signal.SIGTERM)
        if title != "hypercorn":  # which shows the KeyboardInterrupt
            assert complaints(server.printed) == []


@pytest.mark.skipif(sys.version_info >= (3, 16), reason="there are no policies any more")
def test_jupyter_runs_as_its_section_says(tmp_path: Path) -> None:
    if importlib.util.find_spec("jupyter_server") is None:
        pytest.skip("needs jupyter_server")
    port = unused_port()
    ports = {"8000": str(port)}
    (command,) = blocks(sections(PAGE)["A program that makes its loop itself"], "sh")
    env = environment("io_uring") | {"HOME": str(tmp_path), "JUPYTER_RUNTIME_DIR": str(tmp_path)}
    with running(*command_argv(command, ports), "--allow-root", env=env, cwd=tmp_path) as server:
        assert b"version" in _get(f"http://127.0.0.1:{port}/api", server, 40)
        assert any("io_uring" in name for name in _files(server.process.pid))


# Containers


def _script() -> Any:
    spec = importlib.util.spec_from_file_location("allow_io_uring", DEPLOY / "allow_io_uring.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


CALLS = ["io_uring_setup", "io_uring_enter", "io_uring_register"]
#: As profiles are that refuse io_uring: by name, with others; or by not allowing it.
BY_NAME = {
    "defaultAction": "SCMP_ACT_ALLOW",
    "syscalls": [{"names": [*CALLS, "kexec_load"], "action": "SCMP_ACT_ERRNO"}],
}


def _by_default() -> dict[str, Any]:
    others = sorted(under_profile.numbers().keys() - set(CALLS))
    rules = [{"names": others, "action": "SCMP_ACT_ALLOW"}]
    return {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": rules}


needs_headers = pytest.mark.skipif(not under_profile.numbers(), reason="needs the kernel's headers")


@needs_headers
def test_the_numbers_are_those_of_the_page() -> None:
    found = under_profile.numbers()
    assert [found[name] for name in _script().CALLS] == [425, 426, 427]
    assert "425 to 427" in (DEPLOY / "containers.md").read_text()


def test_the_rest_of_a_profile_is_left_alone() -> None:
    rule = {"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0}]}
    profile = {"defaultAction": "SCMP_ACT_ERRNO", "archMap": [1], "syscalls": [rule]}
    found = _script().allow(profile)
    assert found == profile | {"syscalls": [rule, {"names": CALLS, "action": "SCMP_ACT_ALLOW"}]}


def test_the_rule_of_the_page_is_the_one_that_the_script_adds() -> None:
    rule = json.loads((DEPLOY / "io_uring_rule.json").read_text())
    added = _script().allow({"syscalls": []})
    assert rule["syscalls"] == added["syscalls"]


@pytest.mark.skipif(sys.platform != "linux", reason="system calls of Linux")
def test_the_kernel_knows_these_numbers() -> None:
    """Whatever the headers say: io_uring's own answer to no arguments, or a refusal, but not ENOSYS."""
    libc = ctypes.CDLL(None, use_errno=True)
    answers, nobody = [], 1 << 20  # no descriptor, and too many entries
    for number in (425, 426, 427):
        assert libc.syscall(*map(ctypes.c_long, (number, nobody, 0, 0, 0, 0, 0))) == -1
        answers.append(ctypes.get_errno())
    if errno.ENOSYS in answers or errno.EPERM in answers:
        pytest.skip("a sandbox refuses io_uring here")
    assert answers == [errno.EFAULT, errno.EBADF, errno.EBADF]


@needs_headers
@pytest.mark.parametrize("kind", ["by name", "by default"])
def test_a_merged_profile_lets_the_ring_be_made(kind: str, tmp_path: Path) -> None:
    from proactorx import drivers

    if not drivers.probe("io_uring").available:
        pytest.skip("io_uring does not run here")
    default = BY_NAME if kind == "by name" else _by_default()
    (tmp_path / "default.json").write_text(json.dumps(default))
    merge = [sys.executable, str(DEPLOY / "allow_io_uring.py")]
    merged = subprocess.run(merge, input=json.dumps(default).encode(), stdout=subprocess.PIPE, check=True)
    (tmp_path / "io_uring.json").write_bytes(merged.stdout)
    found = {}
    for name in ("default", "io_uring"):
        argv = [sys.executable, str(Path(__file__).with_name("under_profile.py")), f"{tmp_path}/{name}.json"]
        argv += [sys.executable, "-m", "proactorx", "probe", "--json"]
        env = {key: value for key, value in environment().items() if key != "PROACTORX_BACKEND"}
        done = subprocess.run(argv, env=env, stdout=subprocess.PIPE, timeout=30, check=True)
        found[name] = json.loads(done.stdout)["chosen"]["name"]
    assert found == {"default": "epoll", "io_uring": "io_uring"}


def test_the_unit_is_the_one_of_the_page_and_systemd_accepts_it(tmp_path: Path) -> None:
    (unit,) = blocks((DEPLOY / "containers.md").read_text(), "ini")
    assert (DEPLOY / "app.service").read_text() == unit
    if shutil.which("systemd-analyze") is None:
        pytest.skip("needs systemd-analyze")
    # The program of the unit is not on this machine, and that is what systemd would complain about.
    (tmp_path / "app.service").write_text(unit.replace("/opt/app/venv/bin/uvicorn", sys.executable))
    done = subprocess.run(
        ["systemd-analyze", "verify", tmp_path / "app.service"], capture_output=True, text=True, check=False
    )
    assert [line for line in done.stderr.splitlines() if "app.service" in line] == []
    for name in CALLS:
        assert name in call("systemd-analyze", "syscall-filter", "@aio")
