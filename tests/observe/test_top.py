"""``top``, ``ps`` and ``pstree``, and the socket that answers them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import select
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from loop.helpers import BOUND, in_thread, run_script, script_environment

import proactorx
from observe.planted import FREE_THREADED
from proactorx.cli import main as command
from proactorx.observe import expose
from proactorx.observe.flight import Buffer, Flight, buffers_of, flights_of, peer_of, words_of
from proactorx.observe.tasks import TaskInfo, tasks_of, tree

pytestmark = [
    pytest.mark.ours,
    pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="needs Unix sockets"),
]

Loop = proactorx.EventLoop


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of sockets of this test's own."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    yield tmp_path / "proactorx"
    if expose._exposed is not None:
        expose._exposed.close()
        expose._exposed = None


def raw(question: bytes) -> bytes:
    """What the socket answers to these bytes."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(BOUND)
        while True:
            try:
                sock.connect(str(expose.expose()))
                break
            except BlockingIOError:
                time.sleep(0.01)  # connect(2): its queue is full; the test's own time limit ends this
        sock.sendall(question)
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_WR)
        data = b""
        with contextlib.suppress(ConnectionResetError):
            while piece := sock.recv(1 << 16):
                data += piece
        return data


class TestSocket:
    def test_nobody_else_may_enter(self, place: Path) -> None:
        path = expose.expose()
        assert path == place / f"{os.getpid()}.sock"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(place.stat().st_mode) == 0o700
        assert expose.expose() == path

    def test_a_folder_that_others_can_enter_is_refused(self, place: Path) -> None:
        place.mkdir()
        place.chmod(0o755)
        with pytest.raises(RuntimeError, match="nobody else can enter"):
            expose.expose()

    def test_a_link_in_its_place_is_refused(self, place: Path, tmp_path: Path) -> None:
        other = tmp_path / "other"
        other.mkdir(mode=0o700)
        place.symlink_to(other)
        with pytest.raises(RuntimeError, match="nobody else can enter"):
            expose.expose()

    @pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs two users")
    @pytest.mark.skipif(not hasattr(socket, "SO_PEERCRED"), reason="the kernel does not tell who asks")
    def test_another_user_is_refused(self, place: Path) -> None:
        """... also one that the folder would let in."""
        path = expose.expose()
        folders = [place.parent, *place.parent.parents][:-1]
        modes = [folder.stat().st_mode for folder in folders]
        script = (
            "import os, socket, sys\n"
            "os.setuid(65534)\n"
            "sock = socket.socket(socket.AF_UNIX)\n"
            "sock.connect(sys.argv[1])\n"
            "try:\n    sock.sendall(b'stats\\n')\n    print(len(sock.recv(100)))\n"
            "except (BrokenPipeError, ConnectionResetError):\n    print(0)\n"
        )
        try:
            for folder in [place, *folders]:
                folder.chmod(0o755)
            path.chmod(0o666)
            done = subprocess.run(
                [sys.executable, "-S", "-c", script, str(path)], capture_output=True, text=True, timeout=BOUND
            )
        finally:
            for folder, mode in zip(folders, modes, strict=True):
                folder.chmod(stat.S_IMODE(mode))
        if "Permission" in done.stderr:
            pytest.skip("that user cannot run this Python")
        assert done.stdout == "0\n", done.stderr

    @pytest.mark.parametrize(
        "question",
        [b"", b"\n", b"stat\n", b"x" * 1000, b"\0\xff\n", b"stats", b"__class__\n", b"stats\nstats\n"],
    )
    def test_what_is_no_question(self, place: Path, question: bytes) -> None:
        expose.expose()
        assert raw(question) == b""
        assert b"pid" in raw(b"stats\n")

    def test_whatever_is_sent(self, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Random bytes in random pieces, and clients that go in between: it answers no less afterwards."""
        monkeypatch.setattr(expose, "PATIENCE", 0.02)
        dice = random.Random(15)
        threads = threading.active_count()
        path = str(expose.expose())
        for _ in range(100):
            with socket.socket(socket.AF_UNIX) as sock, contextlib.suppress(OSError):
                sock.settimeout(BOUND)
                sock.connect(path)
                start = dice.choice([b"", b"stats", b"tasks", b"trace", b"stats\n"])
                sock.sendall(start + dice.randbytes(dice.randrange(100)))
                if dice.random() < 0.3:
                    sock.sendall(dice.randbytes(dice.randrange(1, 100_000)))
                if dice.random() < 0.3:
                    sock.recv(dice.randrange(1, 100))
        monkeypatch.undo()
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(place.parent))
        assert json.loads(raw(b"stats\n"))["pid"] == os.getpid()
        assert threading.active_count() <= threads + 1

    def test_a_client_that_says_nothing_is_dropped(
        self, place: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(expose, "PATIENCE", 0.05)
        with socket.socket(socket.AF_UNIX) as silent:
            silent.connect(str(expose.expose()))
            assert b"pid" in raw(b"stats\n")

    @pytest.mark.skipif(sys.platform == "win32", reason="needs fork")
    def test_a_forked_child_does_not_answer_for_its_parent(self, place: Path) -> None:
        script = """
        import os, warnings
        from proactorx.observe import expose
        warnings.simplefilter("ignore")
        path = expose.expose()
        pid = os.fork()
        if not pid:
            print(expose.expose() != path, flush=True)
            os._exit(0)
        os.waitpid(pid, 0)
        print(path.exists())
        """
        assert run_script(None, script).split() == ["True", "True"]

    def test_the_end_leaves_nothing(self, place: Path) -> None:
        script = "from proactorx.observe import expose\nprint(expose.expose())"
        assert not Path(run_script(None, script).strip()).exists()


class TestTasks:
    def test_who_waits_for_whom(self, loop: Loop) -> None:
        async def leaf() -> None:
            await asyncio.sleep(100)

        async def middle() -> None:
            await leaf()

        async def gathering() -> None:
            await asyncio.gather(
                asyncio.create_task(middle(), name="m1"), asyncio.create_task(middle(), name="m2")
            )

        async def grouping() -> None:
            async with asyncio.TaskGroup() as group:
                group.create_task(middle(), name="g1")

        async def main() -> list[TaskInfo]:
            tasks = [
                asyncio.create_task(gathering(), name="gathers"),
                asyncio.create_task(grouping(), name="groups"),
            ]
            awaits = asyncio.create_task(waits_for(tasks[0]), name="awaits")
            await asyncio.sleep(0.01)
            found: list[TaskInfo] = in_thread(lambda: tasks_of(loop))
            awaits.cancel()
            for task in tasks:
                task.cancel()
            await asyncio.gather(awaits, *tasks, return_exceptions=True)
            return found

        async def waits_for(task: asyncio.Task[None]) -> None:
            await task

        found = loop.run_until_complete(main())
        names = {task.id: task.name for task in found}
        waits = {task.name: [names[other] for other in task.waits_for] for task in found}
        assert waits["gathers"] == ["m1", "m2"]
        assert waits["groups"] == ["g1"]
        assert waits["awaits"] == ["gathers"]
        by_name = {task.name: task for task in found}
        assert [line.split()[0].rpartition(".")[2] for line in by_name["m1"].stack][:2] == ["middle", "leaf"]
        assert by_name["m1"].state == "waiting"
        assert "Future" in by_name["m1"].what
        drawn = [(depth, task.name) for depth, task in tree(found)]
        assert drawn[drawn.index((0, "awaits")) :][:4] == [
            (0, "awaits"),
            (1, "gathers"),
            (2, "m1"),
            (2, "m2"),
        ]
        assert len(drawn) == len(found)

    def test_a_circle_is_drawn_once(self) -> None:
        one = TaskInfo(1, "one", "f", "waiting", (), (2,), "")
        two = TaskInfo(2, "two", "f", "waiting", (), (1,), "")
        assert [(depth, task.name) for depth, task in tree([one, two])] == [(0, "one"), (1, "two")]

    def test_a_future_whose_repr_raises(self, loop: Loop) -> None:
        class Broken(asyncio.Future[None]):
            def __repr__(self) -> str:
                raise ValueError("no")

        async def main() -> list[TaskInfo]:
            future = Broken()
            task = asyncio.ensure_future(wait(future))
            await asyncio.sleep(0.001)
            found = tasks_of(loop)
            future.set_result(None)
            await task
            return found

        async def wait(future: asyncio.Future[None]) -> None:
            await future

        assert "<Broken>" in {task.what for task in loop.run_until_complete(main())}


class TestFlight:
    """Which task waits for which operation, and who is at the other end."""

    @pytest.mark.skipif(FREE_THREADED, reason="the owner of an operation may be freed meanwhile")
    def test_a_stream_that_is_read(self, loop: Loop) -> None:
        async def main() -> tuple[list[Flight], str]:
            async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
                address = server.sockets[0].getsockname()
                reader, writer = await asyncio.open_connection(*address)
                task = asyncio.create_task(reader.readline(), name="the reader")
                await asyncio.sleep(0.01)
                found = in_thread(lambda: flights_of(loop, 100))
                task.cancel()
                writer.close()
                return found, words_of(address)

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read()
            writer.close()

        found, address = loop.run_until_complete(main())
        (one,) = [each for each in found if each.task == "the reader"]
        assert one.peer == address
        assert address in {each.peer for each in found if each.kind.startswith("accept")}
        assert len({each.task for each in found if each.kind == "recv_stream"}) == 2

    @pytest.mark.skipif(FREE_THREADED, reason="the owner of an operation may be freed meanwhile")
    def test_a_socket_of_the_users(self, loop: Loop) -> None:
        async def main() -> list[Flight]:
            left, right = socket.socketpair()
            with left, right:
                left.setblocking(False)
                task = asyncio.create_task(loop.sock_recv(left, 10), name="the receiver")
                await asyncio.sleep(0.01)
                found: list[Flight] = in_thread(lambda: flights_of(loop, 100))
                right.send(b"x")
                await task
                return found

        assert "the receiver" in {each.task for each in loop.run_until_complete(main())}

    def test_a_client_that_does_not_read(self, loop: Loop) -> None:
        async def main() -> list[Buffer]:
            accepted = asyncio.Event()

            def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                writer.write(bytes(20_000_000))
                writers.append(writer)
                accepted.set()

            async with await asyncio.start_server(connected, "127.0.0.1", 0) as server:
                with socket.create_connection(server.sockets[0].getsockname()) as client:
                    await accepted.wait()
                    await asyncio.sleep(0.01)
                    found: list[Buffer] = in_thread(lambda: buffers_of(loop))
                    peers.append(words_of(client.getsockname()))
                    writers[0].transport.abort()
                    await asyncio.sleep(0.01)
            return found

        writers: list[asyncio.StreamWriter] = []
        peers: list[str] = []
        (one,) = loop.run_until_complete(main())
        assert one.peer == peers[0]
        assert 1_000_000 < one.size <= 20_000_000

    def test_addresses(self) -> None:
        assert words_of(("::1", 80, 0, 0)) == "[::1]:80"
        assert words_of(b"\0name") == "\0name"
        assert words_of("/path") == "/path"
        assert peer_of(10**6) == ""
        with open(os.devnull) as file:
            assert peer_of(file.fileno()) == ""


class TestCommands:
    """The commands in this process, while a loop of it is stuck in another thread."""

    @pytest.fixture
    def stuck(self, place: Path) -> Iterator[Loop]:
        async def main() -> None:
            loops.append(asyncio.get_running_loop())
            task = asyncio.create_task(asyncio.sleep(100), name="sleeper")
            await asyncio.sleep(0.01)
            inside.set()
            done.wait(BOUND)
            task.cancel()

        loops: list[Any] = []
        inside, done = threading.Event(), threading.Event()
        thread = threading.Thread(target=lambda: proactorx.run(main()), name="stuck loop")
        thread.start()
        try:
            assert inside.wait(BOUND)
            time.sleep(0.01)
            expose.expose()
            yield loops[0]
        finally:
            done.set()
            thread.join()

    def test_the_processes(self, stuck: Loop, capsys: pytest.CaptureFixture[str]) -> None:
        assert command(["top"]) == 0
        assert capsys.readouterr().out.startswith(f"{os.getpid()}  ")

    def test_json(self, stuck: Loop, capsys: pytest.CaptureFixture[str]) -> None:
        assert command(["top", str(os.getpid()), "--json"]) == 0
        answer = json.loads(capsys.readouterr().out)
        (loop,) = [each for each in answer["loops"] if each["number"] == stuck._number]
        assert loop["current_turn"] >= 0.01
        assert loop["thread_name"] == "stuck loop"
        assert loop["timers"] == 1

    def test_a_trace(self, stuck: Loop, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        path = tmp_path / "trace.json"
        assert command(["top", str(os.getpid()), "--record", str(path)]) == 0
        assert capsys.readouterr().out.startswith(f"{path}: ")
        names = {event["name"] for event in json.loads(path.read_text())["traceEvents"]}
        assert names >= {"turn", "sleep", "sleeper"}
        assert command(["top", str(os.getpid()), "--record", str(tmp_path)]) == 1
        assert command(["top", "--record", str(path)]) == 1
        assert "--record needs the PID" in capsys.readouterr().err

    def test_keys(self, stuck: Loop, tmp_path: Path) -> None:
        """On a real terminal: each key does what it says, and the terminal is as it was."""
        pytest.importorskip("rich")
        pty, termios = pytest.importorskip("pty"), pytest.importorskip("termios")
        terminal, inner = pty.openpty()
        command = [sys.executable, "-m", "proactorx", "top", str(os.getpid())]
        process = subprocess.Popen(
            command,
            stdin=inner,
            stdout=inner,
            stderr=inner,
            cwd=tmp_path,
            env=script_environment(TERM="xterm"),
        )
        before = termios.tcgetattr(inner)
        shown = b""
        end = time.monotonic() + BOUND
        for key, expected in (
            (b"", b"sorted by age"),
            (b"s", b"sorted by kind"),
            (b" ", b"frozen, "),
            (b"t", b"sleeper  waiting"),
            (b"t", b"oldest operations"),
            (b"a", b"sleeper: "),
            (b"w", b"events"),
        ):
            os.write(terminal, key)
            shown = b""
            while expected not in shown:
                assert time.monotonic() < end, (key, shown)
                if select.select([terminal], [], [], 0.1)[0]:
                    shown += os.read(terminal, 1 << 16)
        os.write(terminal, b"q")
        assert process.wait(BOUND) == 0
        assert termios.tcgetattr(inner) == before
        os.close(inner)
        os.close(terminal)
        assert list(tmp_path.glob("trace-*.html"))

    def test_a_picture(self, stuck: Loop, capsys: pytest.CaptureFixture[str]) -> None:
        pytest.importorskip("rich")
        assert command(["top", str(os.getpid()), "--once"]) == 0
        picture = capsys.readouterr().out
        assert picture.startswith(f"process {os.getpid()}: ")
        assert "calls queued" in picture

    def test_without_rich(
        self, stuck: Loop, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("rich", "rich.console", "rich.live"):
            monkeypatch.setitem(sys.modules, name, None)
        assert command(["top", str(os.getpid()), "--once"]) == 1
        assert "pip install 'proactorx[cli]'" in capsys.readouterr().err

    def test_ps_and_pstree(self, stuck: Loop, capsys: pytest.CaptureFixture[str]) -> None:
        assert command(["ps", str(os.getpid())]) == 0
        assert "sleeper  waiting  sleep" in capsys.readouterr().out
        assert command(["pstree", str(os.getpid())]) == 0
        assert "sleeper: sleep " in capsys.readouterr().out

    def test_a_process_that_does_not_answer(self, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert command(["top", "1"]) == 1
        assert "process 1 does not answer" in capsys.readouterr().err
        assert command(["top"]) == 0
        assert "PROACTORX_TOP=1" in capsys.readouterr().out

    def test_the_environment(self, place: Path) -> None:
        script = """
        import os
        os.environ["PROACTORX_TOP"] = "1"
        import asyncio, proactorx
        from proactorx.observe import expose

        async def main():
            print(os.getpid() in await asyncio.to_thread(expose.processes))

        proactorx.run(main())
        """
        assert run_script(None, script).strip() == "True"
