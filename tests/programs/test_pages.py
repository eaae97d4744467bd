"""Every command and every program of every page: run here, or it is said where, or why not."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
import urllib.request
from pathlib import Path

import pytest
from serving import ROOT, environment, running
from support.pages import PAGES, blocks
from support.ports import unused_port

if sys.platform != "linux" or not PAGES.exists() or not (ROOT / ".ci" / "run").exists():
    pytest.skip("the pages are of Linux, and lie beside the sources", allow_module_level=True)

pytestmark = [pytest.mark.programs, pytest.mark.ours]

CI, HERE = ".ci/run", "tests/programs/test_pages.py"
STARTED, DEPLOYED = "tests/programs/test_getting_started.py", "tests/programs/test_deploy.py"
DASK, BENCH, RUN = "tests/compat/test_libraries.py", "tests/cli/test_bench.py", "tests/cli/test_run.py"
KERNELS = "not run: downloads kernels, or needs root and an hour; tests/kernels/test_kernels.py has its parts"
SANITIZED = "not run: needs a CPython of its own, and an hour; tests/test_thread_sanitizer.py has its part"
MEASURES = "not run: measures for minutes; the tables of the pages are what it wrote"

#: Of each page the commands, in its order, and what runs each: a file of the tests, CI, or nobody and why.
COMMANDS: dict[str, list[tuple[str, str]]] = {
    "README.md": [
        ("python -m pip install -e '.[cli]' && python -m proactorx demo", CI),
        ("python -m pip install -e '.[test]' && python -m pytest tests", CI),
    ],
    "CONTRIBUTING.md": [
        ("python -m venv .venv && . .venv/bin/activate", CI),
        ("python -m pip install -e '.[test]'", CI),
        ("python -m pytest tests", CI),
    ],
    "benchmarks.md": [
        ("python tests/benchmarks/loops.py --only servers", "tests/test_benchmarks.py"),
        ("python tests/benchmarks/loops.py --only calls", "tests/test_benchmarks.py"),
        ("python tests/benchmarks/convoy.py", MEASURES),
        ("python docs/figures.py", "tests/test_docs.py"),
        ("python tests/benchmarks/loops.py --only servers", "tests/test_benchmarks.py"),
        ("python tests/benchmarks/loops.py --only calls", "tests/test_benchmarks.py"),
        ("python docs/figures.py", "tests/test_docs.py"),
        ("python tests/benchmarks/port.py", MEASURES),
        ("python -m proactorx bench", BENCH),
        ("python -m proactorx bench --svg bench.svg --json bench.json", BENCH),
        ("python -m proactorx bench --loops io_uring,uvloop --rows streams-1k,timers", BENCH),
        ("python -m proactorx bench --quick", BENCH),
        ("python tests/benchmarks/fairness.py", MEASURES),
        ("python tests/benchmarks/fairness.py --kinds streams,unix,datagrams,backlog", MEASURES),
    ],
    "contributing.md": [
        ("python -m pip install -e '.[cli,test,programs,docs,dev]'", CI),
        ("pre-commit install", "not run: needs the network; CI runs what its hooks run"),
        ("python -m pytest tests", CI),
        ("python -m pytest tests ", CI),
        ('python -m pytest tests -m "exhaustive or not exhaustive"', CI),
        ("python -m pytest tests/loop/test_timers.py", "tests/test_thinning.py"),
        ("python -m pytest tests --driver=epoll", "tests/test_thinning.py"),
        ("python -m pytest tests --driver=io_uring --no-stock", CI),
        ("python -m pytest tests -m programs", CI),
        ("python tests/support/refuse_io_uring.py python -m pytest tests", CI),
        ("python tests/support/thread_sanitizer.py PYTHON", SANITIZED),
        ("bash .ci/run ", CI),
        ("bash .ci/run lint", CI),
    ],
    "deploy/containers.md": [
        ("python allow_io_uring.py < default.json > io_uring.json", DEPLOYED),
        ("docker run --security-opt seccomp=io_uring.json", "not run: needs Docker; the page says so"),
    ],
    "deploy/dask.md": [
        ("python -m pip install distributed", DASK),
        ("python -m proactorx run -m distributed.cli.dask_scheduler --host 10.0.0.1", DASK),
        ("python -m proactorx run -m distributed.cli.dask_worker --no-nanny tcp://10.0.0.1:8786", DASK),
        ("python client.py", DASK),
        ("export DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL=30s", DASK),
        ("export DASK_DISTRIBUTED__COMM__TIMEOUTS__TCP=30s", DASK),
        ("sudo python tests/compat/dask_hosts.py proactorx", DASK),
    ],
    "deploy/servers.md": [
        ("uvicorn --loop proactorx:new_event_loop --port 8000 app:app", DEPLOYED),
        ("gunicorn --worker-class worker.Worker --workers 2 --bind 127.0.0.1:8000 app:app", DEPLOYED),
        ("python serve.py", DEPLOYED),
        ("python serve.py", DEPLOYED),
        ("uvicorn --loop proactorx:new_event_loop --port 8000 app:app", DEPLOYED),
        ("python serve.py", DEPLOYED),
        ("python -m proactorx run -m jupyter_server", DEPLOYED),
    ],
    "getting-started.md": [
        ("python -m pip install .", CI),
        ("python echo.py", STARTED),
        ('python -c "import socket;', STARTED),
        ("python -m pip install 'uvicorn>=0.36'", STARTED),
        ("uvicorn --loop proactorx:new_event_loop --port 8000 app:app", STARTED),
        ("curl http://127.0.0.1:8000/", STARTED),
        ("python read.py", STARTED),
        ("python three_threads.py", STARTED),
    ],
    "kernels.md": [("python tests/kernels/", KERNELS)] * 11,
    "observe.md": [
        ("python -m proactorx run --metrics 127.0.0.1:9100 service.py", HERE),
        ("python -m proactorx top PID --record trace.html", HERE),
    ],
    "trouble.md": [
        ("python -m proactorx run --top --watchdog 100ms", "tests/programs/test_troubled_service.py")
    ],
    "two-pools.md": [("python -m proactorx demo threads", "tests/cli/test_demo_threads.py")],
}

#: How many Python blocks a page has, and what runs them.
PROGRAMS: dict[str, tuple[int, str]] = {
    "README.md": (2, HERE),
    "backends.md": (2, HERE),
    "datagrams.md": (2, HERE),
    "deploy/dask.md": (2, DASK),
    "deploy/servers.md": (6, DEPLOYED),
    "files.md": (1, HERE),
    "getting-started.md": (6, STARTED),
    "no-thread.md": (1, "tests/port/test_no_thread.py"),
    "observe.md": (6, HERE),
    "trouble.md": (5, "tests/programs/test_troubled_service.py"),
    "two-pools.md": (1, "tests/pool/test_two_pools.py"),
}


def _pages() -> dict[str, str]:
    pages = {path.relative_to(PAGES).as_posix(): path for path in sorted(PAGES.rglob("*.md"))}
    pages.pop("reference.md", None)  # made from the docstrings when the site is built
    pages |= {name: ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")}
    return {name: path.read_text() for name, path in pages.items()}


def _commands(text: str) -> list[str]:
    lines = "".join(blocks(text, "sh")).replace("\\\n", "").splitlines()
    return [re.sub(r"\s+", " ", line) for line in lines]


def test_of_every_command_it_is_known_who_runs_it() -> None:
    found = {name: _commands(text) for name, text in _pages().items()}
    assert {name for name, commands in found.items() if commands} == COMMANDS.keys()
    for name, known in COMMANDS.items():
        assert len(found[name]) == len(known), name
        for command, (beginning, where) in zip(found[name], known, strict=True):
            assert command.startswith(beginning), name
            assert where.startswith("not run: ") or (ROOT / where).exists(), name


def test_of_every_program_it_is_known_who_runs_it() -> None:
    found = {name: len(blocks(text, "python")) for name, text in _pages().items()}
    assert {name: count for name, count in found.items() if count} == {
        name: count for name, (count, _) in PROGRAMS.items()
    }
    for name, (_, where) in PROGRAMS.items():
        assert where == HERE or name.rpartition("/")[2] in (ROOT / where).read_text(), name


# What no other test runs


def _run(code: str, folder: Path) -> str:
    """What a program prints that is made of blocks of a page."""
    argv = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(
        argv, env=environment(), cwd=folder, capture_output=True, text=True, timeout=40, check=False
    )
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout


def _in_a_coroutine(code: str) -> str:
    return f"async def main():\n    loop = asyncio.get_running_loop()\n{textwrap.indent(code, '    ')}\n"


def test_the_readme_s_programs(tmp_path: Path) -> None:
    first, port = blocks((ROOT / "README.md").read_text(), "python")
    assert _run(f"async def main(): print('it ran')\n{first}", tmp_path) == "it ran\n"
    made = "import proactorx, socket\nsock, peer = socket.socketpair()\npeer.send(b'hello')\n"
    printed = _run(f"{made}{port}print(packet)\nport.close()\nsock.close()\npeer.close()\n", tmp_path)
    (shown,) = re.findall(r"# (Packet\(.*\))", port)
    assert re.fullmatch(re.escape(shown).replace(re.escape("..."), ".+"), printed.strip())


def test_the_program_of_the_page_on_files(tmp_path: Path) -> None:
    (block,) = blocks(_pages()["files.md"], "python")
    (tmp_path / "data.txt").write_text("one\ntwo\n")
    imported, _, rest = block.partition("\n")
    code = f"import asyncio, proactorx\n{imported}\n{_in_a_coroutine(rest.replace('...', 'print(line)'))}"
    assert _run(f"{code}proactorx.run(main())", tmp_path) == "one\n\ntwo\n\n"


def test_the_programs_of_the_page_on_backends(tmp_path: Path) -> None:
    from proactorx import drivers

    choose, ask = blocks(_pages()["backends.md"], "python")
    if not (drivers.probe("io_uring").available and drivers.probe("epoll").available):
        pytest.skip("both are chosen there")
    made = choose.replace(
        'proactorx.new_event_loop("io_uring")', 'loop = proactorx.new_event_loop("io_uring")'
    )
    code = f"import proactorx\nasync def main(): print('it ran')\n{made}{ask}print(info.name)\nloop.close()"
    assert _run(code, tmp_path) == "it ran\nio_uring\n"


def test_the_programs_of_the_page_on_datagrams(tmp_path: Path) -> None:
    server, made = blocks(_pages()["datagrams.md"], "python")
    talk = """
with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as peer:
    peer.setblocking(False)
    peer.connect(("::1", transport.get_extra_info("sockname")[1]))
    peer.send(b"hello")
    print(await loop.sock_recv(peer, 100))
transport.close()
"""
    made = "transport, _ = " + made.replace("443", "0")
    code = f"import asyncio, proactorx, socket\n{server}\n{_in_a_coroutine(made + talk)}proactorx.run(main())"
    assert _run(code, tmp_path) == "b'hello'\n"


def test_the_programs_of_the_page_on_observing(tmp_path: Path) -> None:
    look, watch, serve, record, watch_traces, on_signal = blocks(_pages()["observe.md"], "python")
    port = unused_port()
    parts = [
        *("import os, signal, time", "import proactorx, proactorx.metrics", "before = loop.stats()"),
        *(look, "(loop,) = proactorx.loops()", watch, serve.replace("9100", str(port)), record),
        *(watch_traces.replace("/var/tmp", str(tmp_path / "traces")), on_signal.replace("/tmp/", "")),
        *("os.kill(os.getpid(), signal.SIGUSR2)", "time.sleep(0.3)", "await asyncio.sleep(0.1)"),
        *("loop.watch(None)", "endpoint.close()"),
    ]
    (tmp_path / "traces").mkdir()
    code = f"import asyncio\nimport proactorx\n{_in_a_coroutine(chr(10).join(parts))}proactorx.run(main())"
    argv = [sys.executable, "-c", code]
    done = subprocess.run(argv, env=environment(), cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "blocking call" in done.stderr  # the watchdog has seen the sleep
    assert len(done.stdout.split(maxsplit=2)) == 3
    assert (tmp_path / "trace.json").stat().st_size > 0
    assert len(list(tmp_path.glob("trace*.html"))) == 2  # the second one is that of the signal
    assert list((tmp_path / "traces").iterdir())


def test_the_commands_of_the_page_on_observing(tmp_path: Path) -> None:
    metrics, top = blocks(_pages()["observe.md"], "sh")
    port = unused_port()
    (tmp_path / "service.py").write_text(
        "import asyncio\nasync def main():\n    print('ready', flush=True)\n    await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    words = metrics.replace("9100", str(port)).split()[1:]
    env = environment() | {"PROACTORX_TOP": "1"}
    with running(sys.executable, *words, env=env, cwd=tmp_path) as service:
        service.wait_for("ready")
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://127.0.0.1:{port}/metrics", timeout=20) as answer:
            assert b"\nproactorx_loop_turns_total{" in answer.read()
        argv = [sys.executable, *top.replace("PID", str(service.process.pid)).split()[1:]]
        subprocess.run(argv, env=env, cwd=tmp_path, stdout=subprocess.PIPE, timeout=40, check=True)
        assert (tmp_path / "trace.html").stat().st_size > 0
        service.process.kill()
        service.stopped = True
