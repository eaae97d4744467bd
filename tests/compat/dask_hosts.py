"""dask on three hosts, which are network namespaces: three workers and 2,000 tasks, which lose two of them.

    python tests/compat/dask_hosts.py                    asyncio, uvloop and proactorx, one after the other
    python tests/compat/dask_hosts.py proactorx          one of them
    python tests/compat/dask_hosts.py --calm             without the losses: the scheduler's CPU time per task

Host 1 has the scheduler and a worker, host 2 a worker under a nanny, host 3 a worker.  In the middle of the
tasks host 2's processes are killed, and host 3 is cut off.  Needs root, iproute2 and distributed.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

LOOPS = ("asyncio", "uvloop", "proactorx")
TASKS = 2000
PORT = 8786
SCHEDULER = "10.77.0.1"
#: How every Python of the cluster comes by its loop, those that nannies start included.
SITE = """
import os
name = os.environ.get("HOSTS_LOOP")
if name == "uvloop":
    import asyncio, uvloop, warnings
    warnings.simplefilter("ignore")
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
elif name == "proactorx":
    import proactorx
    proactorx.install()
"""


def package() -> str:
    """Where the package is that this Python would import; else the tree of this file."""
    found = importlib.util.find_spec("proactorx")
    if found is None or found.origin is None:
        return str(Path(__file__).parents[2])
    return str(Path(found.origin).parents[1])


def ip(*words: str) -> None:
    """Run ip(8)."""
    subprocess.run(["ip", *words], check=True, capture_output=True)


def namespaces_can_be_made() -> bool:
    """Whether this process may, which in a container it may not."""
    name = f"px{os.getpid()}-try"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False).returncode == 0
    if made:
        ip("netns", "del", name)
    return made


@contextlib.contextmanager
def hosts() -> Iterator[list[str]]:
    """Three namespaces on one bridge, which has a namespace of its own: their names."""
    hub, *names = [f"px{os.getpid()}-{number}" for number in range(4)]
    made = []
    try:
        for name in (hub, *names):
            ip("netns", "add", name)
            made.append(name)
            ip("-n", name, "link", "set", "lo", "up")
        ip("-n", hub, "link", "add", "bridge", "type", "bridge")
        ip("-n", hub, "link", "set", "bridge", "up")
        for number, name in enumerate(names, 1):
            ends = ["name", "eth", "netns", name, "type", "veth", "peer", "name", f"port{number}"]
            ip("link", "add", *ends, "netns", hub)
            ip("-n", hub, "link", "set", f"port{number}", "master", "bridge", "up")
            ip("-n", name, "addr", "add", f"10.77.0.{number}/24", "dev", "eth")
            ip("-n", name, "link", "set", "eth", "up")
        yield [hub, *names]
    finally:
        for name in made:
            ip("netns", "del", name)


class Cluster:
    """The processes of a scheduler and its workers, and what they do to them."""

    def __init__(self, loop: str, names: list[str], folder: Path) -> None:
        (folder / "sitecustomize.py").write_text(SITE)
        self.hub, *self.names = names
        self.env = os.environ | {
            "HOSTS_LOOP": loop,
            "PYTHONPATH": os.pathsep.join([str(folder), package()]),
            "DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": "4s",
            "DASK_DISTRIBUTED__COMM__TIMEOUTS__TCP": "12s",
            "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "10",
            "DASK_TEMPORARY_DIRECTORY": str(folder),
        }
        self.folder = folder
        self.processes: list[subprocess.Popen[bytes]] = []
        self.scheduler = self.start(1, "scheduler", f"--host={SCHEDULER}", f"--port={PORT}", "--no-dashboard")
        where = f"tcp://{SCHEDULER}:{PORT}"
        options = ["--nthreads=2", "--no-dashboard", "--death-timeout=40"]
        self.start(1, "worker", where, f"--host={SCHEDULER}", "--no-nanny", *options)
        self.nanny = self.start(2, "worker", where, "--host=10.77.0.2", "--nanny", *options)
        self.start(3, "worker", where, "--host=10.77.0.3", "--no-nanny", *options)

    def start(self, host: int, what: str, *options: str) -> subprocess.Popen[bytes]:
        """Start a program of dask's on a host."""
        argv = [
            "ip",
            "netns",
            "exec",
            self.names[host - 1],
            sys.executable,
            "-m",
            f"distributed.cli.dask_{what}",
        ]
        with (self.folder / f"log{len(self.processes)}").open("wb") as log:
            process = subprocess.Popen(
                [*argv, *options],
                env=self.env,
                cwd=self.folder,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.processes.append(process)
        return process

    def lose_two(self) -> None:
        """Kill host 2's processes, and cut host 3 off."""
        os.killpg(self.nanny.pid, signal.SIGKILL)
        ip("-n", self.hub, "link", "set", "port3", "down")

    def cpu(self) -> float:
        """Seconds of CPU time that the scheduler has taken."""
        fields = Path(f"/proc/{self.scheduler.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def rings(self) -> int:
        """How many of its Pythons have a ring."""
        found = 0
        for process in self.processes:
            pids = [process.pid]
            for pid in pids:
                for task in Path(f"/proc/{pid}/task").iterdir():
                    pids += map(int, (task / "children").read_text().split())
            for pid in pids:
                links = [link for link in Path(f"/proc/{pid}/fd").iterdir() if os.path.lexists(link)]
                found += any("io_uring" in os.readlink(link) for link in links)
        return found

    def logs(self) -> str:
        """What they have written."""
        return "\n".join(path.read_text()[-2000:] for path in sorted(self.folder.glob("log*")))

    def close(self) -> None:
        """End all of them."""
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


CLIENT = """
import json, os, signal, sys, time
import distributed

def step(n):
    time.sleep(0.002)
    return n * n

def say(word):
    print(json.dumps(word), flush=True)

def main(where, tasks):
    client = distributed.Client(where, timeout=40)
    client.wait_for_workers(3, timeout=40)
    say("ready")
    sys.stdin.readline()
    futures = client.map(step, range(tasks), pure=False)
    distributed.wait(futures[: tasks // 4])
    say("a quarter")
    sys.stdin.readline()
    results = client.gather(futures)
    say({"sum": sum(results), "results": len(results), "workers": len(client.scheduler_info()["workers"])})
    sys.stdin.readline()
    os._exit(0)

if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
"""


def run(loop: str, *, calm: bool = False) -> dict[str, object]:
    """Do the tasks: what came of them, and the scheduler's CPU time per task in microseconds."""
    with hosts() as names, tempfile.TemporaryDirectory() as folder:
        cluster = Cluster(loop, names, Path(folder))
        Path(folder, "client.py").write_text(CLIENT)
        argv = ["ip", "netns", "exec", names[1], sys.executable, f"{folder}/client.py"]
        client = subprocess.Popen(
            [*argv, f"tcp://{SCHEDULER}:{PORT}", str(TASKS)],
            env=cluster.env | {"HOSTS_LOOP": "asyncio"}, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, cwd=folder,
        )  # fmt: skip
        assert client.stdin is not None
        assert client.stdout is not None

        def go() -> object:
            assert client.stdin is not None
            assert client.stdout is not None
            client.stdin.write(b"\n")
            client.stdin.flush()
            return json.loads(client.stdout.readline())

        try:
            json.loads(client.stdout.readline())
            rings, before, started = cluster.rings(), cluster.cpu(), time.monotonic()
            go()
            if not calm:
                cluster.lose_two()
            found = go()
            took, cpu = time.monotonic() - started, cluster.cpu() - before
        except ValueError:
            raise SystemExit(cluster.logs()) from None
        finally:
            client.kill()
            client.communicate()
            cluster.close()
    assert isinstance(found, dict)
    right = found["sum"] == sum(n * n for n in range(TASKS)) and found["results"] == TASKS
    row = {
        "loop": loop,
        "tasks": found["results"],
        "right": right,
        "workers": found["workers"],
        "rings": rings,
    }
    return row | {"seconds": round(took, 1), "cpu_per_task_us": round(cpu / TASKS * 1e6)}


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("loops", nargs="*", default=LOOPS)
    parser.add_argument("--calm", action="store_true")
    options = parser.parse_args()
    for loop in options.loops:
        print(json.dumps(run(loop, calm=options.calm)), flush=True)


if __name__ == "__main__":
    main()
