"""The watchdog: stalls of many kinds are planted, and the culprit has to be named in the right category.

A stall lasts until it was reported, where it can be made so: then no time-out decides.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from loop.helpers import BOUND, finish, run_script, script_environment, start_script

import proactorx
from observe.planted import AFTER, ALSO, FREE_THREADED, LINUX, Loop, Seen, first, may_block
from proactorx.observe import running, watchdog
from proactorx.observe.alarm import now_ns as alarm_now_ns
from proactorx.observe.stall import COMPUTING, CPU, GIL, UNKNOWN, Stall
from proactorx.observe.watchdog import NAME, seconds_of

pytestmark = pytest.mark.ours

HOUR = 3600 * 10**9


class TestBlocking:
    def test_a_coroutine(self, seen: Seen) -> None:
        async def inner() -> None:
            seen.block()

        async def main() -> None:
            await inner()

        seen.run(main)
        stall = first(seen)
        assert stall.kind in may_block()
        assert stall.task == "the culprit"
        assert [name.rpartition(".")[2] for name in stall.coroutines] == ["main", "inner"]
        assert "seen.block()" in stall.stack
        assert "run_forever" not in stall.stack
        assert not stall.keeps_gil

    def test_time_sleep_without_any_frame(self, seen: Seen) -> None:
        async def main() -> None:
            seen.loop.call_soon(time.sleep, 0.4)
            await asyncio.sleep(0.001)

        seen.run(main)
        stall = first(seen)
        assert stall.kind in may_block()
        assert stall.task is None
        assert stall.callback == (None if FREE_THREADED else "sleep")

    def test_a_protocol(self, seen: Seen) -> None:
        class Slow(asyncio.Protocol):
            def data_received(self, data: bytes) -> None:
                seen.block()

        async def main() -> None:
            server = await seen.loop.create_server(Slow, "127.0.0.1", 0)
            _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(b"x")
            while not seen.stalls:
                await asyncio.sleep(0.002)
            writer.close()
            server.close()
            await server.wait_closed()

        seen.run(main)
        stall = first(seen)
        assert stall.kind in may_block()
        assert stall.task is None
        assert stall.callback is not None
        assert stall.callback.endswith("Slow.data_received")

    def test_a_child_that_is_waited_for(self, seen: Seen) -> None:
        async def main() -> None:
            subprocess.run([sys.executable, "-c", "import time; time.sleep(0.4)"], check=True)

        seen.run(main)
        assert first(seen).kind in may_block()
        assert "subprocess.run" in first(seen).stack

    def test_a_lock_that_a_worker_holds(self, seen: Seen) -> None:
        lock = threading.Lock()

        async def main() -> None:
            with lock:
                worker = asyncio.ensure_future(asyncio.to_thread(hold))
                ready = held.wait
            await asyncio.to_thread(ready, BOUND)
            with lock:
                pass
            await worker

        def hold() -> None:
            with lock:
                held.set()
                seen.block()

        held = threading.Event()
        seen.run(main)
        assert first(seen).kind in may_block()
        assert "with lock:" in first(seen).stack

    @pytest.mark.skipif(sys.platform == "win32", reason="pipes of another kind")
    def test_a_pipe_that_nobody_reads(self, seen: Seen) -> None:
        def drain() -> None:
            seen.block()
            while os.read(reader, 1 << 20):
                continue

        async def main() -> None:
            thread.start()
            data = bytes(1 << 20)
            while data:  # the kernel may interrupt one: io_uring does, when it frees a ring
                data = data[os.write(writer, data) :]
            os.close(writer)

        reader, writer = os.pipe()
        thread = threading.Thread(target=drain)
        try:
            seen.run(main)
        finally:
            thread.join()
            os.close(reader)
        assert first(seen).kind in may_block()
        assert "os.write" in first(seen).stack

    def test_an_import(self, seen: Seen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "imported_slowly.py").write_text("import time\ntime.sleep(0.4)\n")
        monkeypatch.syspath_prepend(str(tmp_path))

        async def main() -> None:
            importlib.import_module("imported_slowly")

        seen.run(main)
        del sys.modules["imported_slowly"]
        assert first(seen).kind in may_block()
        assert "imported_slowly.py" in first(seen).stack

    def test_a_finalizer(self, seen: Seen) -> None:
        class Slow:
            def __del__(self) -> None:
                seen.block()

        async def main() -> None:
            made = Slow()
            del made

        seen.run(main)
        assert first(seen).kind in may_block()
        assert "in __del__" in first(seen).stack


class TestComputing:
    def test_a_callback(self, seen: Seen) -> None:
        async def main() -> None:
            seen.loop.call_soon(seen.compute)
            await asyncio.sleep(0.001)

        seen.run(main)
        stall = first(seen)
        assert stall.kind in {COMPUTING} | ALSO
        assert stall.task is None
        assert stall.callback == "Seen.compute"

    def test_deep_recursion(self, seen: Seen) -> None:
        def descend(depth: int) -> None:
            if depth:
                descend(depth - 1)
            else:
                seen.compute()

        async def main() -> None:
            descend(300)

        seen.run(main)
        stall = first(seen)
        assert stall.kind in {COMPUTING} | ALSO
        assert "seen.compute()" in stall.stack
        assert len(stall.stack) < 20_000

    def test_code_that_keeps_the_gil(self, seen: Seen) -> None:
        async def main() -> None:
            for _ in range(50):
                sum(range(10_000_000))
                if seen.begun.is_set():
                    return

        seen.run(main)
        stall = seen.stalls[0]
        assert stall.kind in {COMPUTING} | ALSO
        if stall.phase == "begins":  # else the turn was over when the watchdog had the GIL
            assert stall.task == "the culprit"
            assert "sum(range(" in stall.stack

    def test_collecting_garbage(self, seen: Seen) -> None:
        async def main() -> None:
            for _ in range(200):
                gc.collect()
                if seen.begun.is_set():
                    return

        kept: list[Any] = [[each] for each in range(300_000)]
        seen.run(main)
        assert seen.stalls[0].kind in {COMPUTING, UNKNOWN} | ALSO
        assert kept

    def test_a_storm_of_callbacks(self, seen: Seen) -> None:
        async def main() -> None:
            for _ in itertools.takewhile(lambda _: not seen.begun.is_set(), range(20)):
                for _ in range(500_000):
                    seen.loop.call_soon(int)
                await asyncio.sleep(0)

        seen.run(main)
        assert seen.stalls[0].kind in {COMPUTING, UNKNOWN} | ALSO


@pytest.mark.skipif(FREE_THREADED, reason="there is no GIL")
@pytest.mark.skipif(not LINUX, reason="needs CPU times of threads that are exact")
def test_another_thread_keeps_the_gil(seen: Seen) -> None:
    def keep() -> None:
        for _ in range(20):
            sum(range(10_000_000))
            if any(stall.kind in (GIL, CPU) for stall in seen.stalls):
                return

    if seen.loop.backend_info().name == "select":
        pytest.skip("it does not tell when its sleep has ended")

    async def main() -> None:
        thread = threading.Thread(target=keep, name="the keeper")
        thread.start()
        while thread.is_alive():
            await asyncio.sleep(0.001)

    seen.run(main)
    kinds = {stall.kind for stall in seen.stalls}
    assert kinds & {GIL, CPU}
    assert {stall.holder for stall in seen.stalls if stall.kind == GIL} <= {"the keeper", None}
    assert "the keeper" in {stall.holder for stall in seen.stalls} or CPU in kinds
    assert seen.loop.stats().gil_wait.longest > 0


@pytest.mark.skipif(FREE_THREADED, reason="there is no GIL")
@pytest.mark.skipif(not LINUX, reason="needs CPU times of threads that are exact")
def test_what_the_loop_computed_before_is_not_held_against_it(seen: Seen) -> None:
    """A turn that computes, and a next one that waits: the watchdog has no look between them."""

    def keep() -> None:
        for _ in range(3):
            sum(range(10_000_000))

    async def main() -> None:
        thread = threading.Thread(target=keep, name="the keeper")
        sum(range(20_000_000))
        await asyncio.sleep(0)
        thread.start()  # waits until it runs, and then for the GIL
        while thread.is_alive():
            await asyncio.sleep(0.001)

    seen.run(main)
    held = [stall for stall in seen.stalls if stall.kind == GIL]
    # None: on a busy machine the keeper may have had too little of a processor to be told from others.
    assert {stall.holder for stall in held} <= {"the keeper", None}
    assert [stall for stall in seen.stalls if stall.kind == COMPUTING and ".start()" in stall.stack] == []


class TestNoFalseAlarm:
    def test_a_loop_that_sleeps(self, seen: Seen) -> None:
        seen.loop.run_until_complete(asyncio.sleep(6 * AFTER))
        assert [stall for stall in seen.stalls if stall.kind != CPU] == []

    def test_a_loop_that_sleeps_after_it_has_run_beside_a_thread(self, seen: Seen) -> None:
        """There it looks for packets before it sleeps, and must not be taken for awake then."""

        def compute() -> None:
            while not over.is_set():
                sum(range(1000))

        async def main() -> None:
            thread.start()
            for _ in range(20):
                await asyncio.sleep(0.001)
            over.set()
            thread.join()
            await asyncio.sleep(0.001)
            seen.stalls.clear()
            for _ in range(3):
                await asyncio.sleep(4 * AFTER)

        over = threading.Event()
        thread = threading.Thread(target=compute)
        seen.loop.run_until_complete(main())
        assert [stall for stall in seen.stalls if stall.kind == GIL] == []

    def test_a_loop_that_does_not_run(self, seen: Seen) -> None:
        seen.loop.run_until_complete(asyncio.sleep(0.001))
        time.sleep(4 * AFTER)
        seen.loop.run_until_complete(asyncio.sleep(0.001))
        assert [stall for stall in seen.stalls if stall.kind != CPU] == []

    def test_a_run_that_begins_has_not_been_awake_since_the_last_one(self, loop: Loop) -> None:
        """The watchdog may look between two words that the loop writes then."""
        loop.run_until_complete(asyncio.sleep(0.001))
        began, awake, *_ = loop._turn()
        assert began == awake == 0

    @pytest.mark.skipif(sys.platform == "win32", reason="cannot stop a process")
    def test_a_process_that_was_stopped(self, loop: Loop) -> None:
        name = loop.backend_info().name
        script = f"""
        import asyncio, proactorx
        from proactorx.observe.stall import CPU
        stalls = []

        async def main():
            asyncio.get_running_loop().watch(0.4, report=stalls.append)
            print("running", flush=True)
            for _ in range(20):
                for _ in range(50):
                    await asyncio.sleep(0)
                await asyncio.sleep(0.1)

        proactorx.run(main(), backend={name!r})
        print([str(stall) for stall in stalls if stall.kind != CPU])
        """
        process = start_script(script)
        assert process.stdout is not None
        assert process.stdout.readline() == "running\n"
        for _ in range(2):
            time.sleep(0.15)
            os.kill(process.pid, signal.SIGSTOP)
            time.sleep(0.7)
            os.kill(process.pid, signal.SIGCONT)
        out, err = finish(process)
        assert (out, err) == ("[]\n", "")

    def test_a_machine_that_was_suspended(self, loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
        """Where the clock goes on meanwhile: an hour passes within a turn, and a sleep of the watchdog's.

        (On Linux the clock of all this, CLOCK_MONOTONIC, stands still: clock_gettime(2).)
        """

        class Suspended:
            """The watchdog's alarm: the next sleep takes an hour more."""

            def ring(self) -> None:
                alarm.ring()

            def sleep(self, seconds: float) -> tuple[int, int]:
                nonlocal lost
                overslept, waited = alarm.sleep(seconds)
                if at_work.is_set() and not resumed.is_set():
                    lost = HOUR
                    overslept += HOUR
                    resumed.set()
                return overslept, waited

        async def main() -> None:
            await asyncio.sleep(0.01)
            at_work.set()
            assert resumed.wait(BOUND)  # ends a few ms after the machine has resumed
            await asyncio.sleep(0.3)

        lost = 0
        at_work, resumed = threading.Event(), threading.Event()
        guard = watchdog.Watchdog()
        alarm = guard._alarm
        guard._alarm = Suspended()  # type: ignore[assignment]
        monkeypatch.setattr(running, "observer", guard)
        monkeypatch.setattr(watchdog, "now_ns", lambda: alarm_now_ns() + lost)
        seen = Seen(loop)
        loop.watch(1.0, report=seen)
        try:
            loop.run_until_complete(main())
        finally:
            loop.watch(None)
        assert resumed.is_set()
        assert [str(stall) for stall in seen.stalls if stall.kind != CPU] == []

    @pytest.mark.skipif(
        not LINUX, reason="only there the clock is known to stand still in a suspended machine"
    )
    def test_the_clock_stands_still_in_a_suspended_machine(self) -> None:
        before = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        now = alarm_now_ns()
        assert before <= now <= time.clock_gettime_ns(time.CLOCK_MONOTONIC)


class TestReports:
    def test_again_while_it_lasts(self, loop: Loop) -> None:
        seen = Seen(loop)
        three = threading.Event()

        def report(stall: Stall) -> None:
            seen(stall)
            if len(seen.stalls) == 3:
                three.set()

        async def main() -> None:
            assert three.wait(BOUND)

        loop.watch(AFTER, repeat=AFTER / 2, report=report)
        seen.run(main)
        phases = [stall.phase for stall in seen.stalls]
        one = seen.stalls[: phases.index("ends") + 1]  # a busy machine may have another stall after it
        assert phases[:3] == ["begins", "lasts", "lasts"]
        times = [stall.seconds for stall in one]
        assert times == sorted(times)

    def test_one_that_raises(self, loop: Loop, caplog: pytest.LogCaptureFixture) -> None:
        told = threading.Event()

        def report(stall: Stall) -> None:
            told.set()
            raise ValueError("in the report")

        async def main() -> None:
            assert told.wait(BOUND)
            while "in the report" not in caplog.text:
                await asyncio.sleep(0.002)

        loop.watch(AFTER, report=report)
        loop.run_until_complete(main())
        assert "the report of a stall failed" in caplog.text

    def test_a_look_that_fails_is_not_the_last(
        self, loop: Loop, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_args: object) -> None:
            monkeypatch.undo()
            raise ZeroDivisionError

        monkeypatch.setattr("proactorx.observe.watchdog.look_at", fail)
        seen = Seen(loop)
        loop.watch(AFTER, report=seen)

        async def main() -> None:
            seen.block()

        seen.run(main)
        assert "the watchdog could not look at a loop" in caplog.text
        assert seen.stalls[0].phase == "begins"

    def test_the_log(self, loop: Loop, caplog: pytest.LogCaptureFixture) -> None:
        async def main() -> None:
            end = time.monotonic() + BOUND
            while not caplog.records:
                assert time.monotonic() < end
                time.sleep(0.002)

        async def run() -> None:
            await asyncio.create_task(main(), name="slow")
            async with asyncio.timeout(BOUND):
                while len(caplog.records) < 2:
                    await asyncio.sleep(0.002)

        loop.watch(AFTER)
        loop.run_until_complete(run())
        began, ended = (record.getMessage() for record in caplog.records[:2])
        assert began.startswith("the loop has not turned for 0.")
        assert "in task 'slow'" in began
        assert "time.sleep(0.002)" in began
        assert ended.startswith("the loop goes on after ")
        assert {record.name for record in caplog.records} == {"proactorx"}


class TestSettings:
    def test_what_is_no_time(self, loop: Loop) -> None:
        for after in (0, -1, 1e-9, float("nan"), 1e9):
            with pytest.raises(ValueError, match="a time must be between"):
                loop.watch(after)
        with pytest.raises(ValueError, match="a time must be between"):
            loop.watch(repeat=0)

    @pytest.mark.parametrize(
        ("text", "seconds"), [("100ms", 0.1), ("0.5s", 0.5), ("2", 2), (" 50 ms ", 0.05)]
    )
    def test_durations(self, text: str, seconds: float) -> None:
        assert seconds_of(text) == pytest.approx(seconds)

    @pytest.mark.parametrize("text", ["", "fast", "ms", "1h", "-1s", "nan", "1us"])
    def test_what_is_no_duration(self, text: str) -> None:
        with pytest.raises(ValueError):
            seconds_of(text)

    def test_a_loop_that_is_not_watched_any_more(self, loop: Loop) -> None:
        seen = Seen(loop)
        loop.watch(0.001, report=seen)
        loop.watch(None)
        loop.watch(None)
        loop.call_soon(time.sleep, 0.05)
        loop.run_until_complete(asyncio.sleep(0.001))
        assert seen.stalls == []

    def test_the_thread_ends_with_the_last_loop(self) -> None:
        loop = proactorx.new_event_loop()
        loop.watch(0.001)
        assert NAME in {thread.name for thread in threading.enumerate()}
        loop.close()
        end = time.monotonic() + BOUND
        while NAME in {thread.name for thread in threading.enumerate()}:
            assert time.monotonic() < end
            time.sleep(0.002)

    def test_a_loop_that_is_forgotten_is_collected(self) -> None:
        script = """
        import gc, proactorx, weakref, warnings
        warnings.simplefilter("ignore")
        loop = proactorx.new_event_loop()
        loop.watch(0.01)
        gone = weakref.ref(loop)
        del loop
        for _ in range(1000):
            gc.collect()
            if gone() is None:
                break
        print(gone())
        """
        assert run_script(None, script).strip() == "None"

    def test_the_environment(self) -> None:
        script = """
        import asyncio, proactorx, time
        async def main():
            time.sleep(0.4)
            await asyncio.sleep(0.1)
        proactorx.run(main())
        """
        process = start_script(script, env=script_environment(PROACTORX_WATCHDOG="50ms"))
        _, err = finish(process)
        assert process.returncode == 0
        assert "time.sleep(0.4)" in err or "in main" in err
        assert "the loop goes on after 0." in err

    def test_a_wrong_environment(self) -> None:
        script = "import proactorx\nproactorx.new_event_loop()"
        process = start_script(script, env=script_environment(PROACTORX_WATCHDOG="soon"))
        _, err = finish(process)
        assert process.returncode == 1
        assert "ValueError: PROACTORX_WATCHDOG: 'soon' is no duration: 100ms, 0.5s" in err

    @pytest.mark.skipif(sys.platform == "win32", reason="needs fork")
    def test_a_forked_child_watches_its_own_loops(self) -> None:
        script = """
        import asyncio, os, proactorx, time, warnings
        warnings.simplefilter("ignore")
        stalls = []

        async def main():
            asyncio.get_running_loop().watch(0.05, report=stalls.append)
            while len(stalls) < 2:  # a busy machine may run the watchdog too late for one
                time.sleep(0.3)
                await asyncio.sleep(0)

        proactorx.run(main())
        stalls.clear()
        pid = os.fork()
        proactorx.run(main())
        if pid:
            os.waitpid(pid, 0)
        print(stalls[0].kind, flush=True)
        """
        kinds = run_script(None, script).splitlines()[:2]
        assert len(kinds) == 2
        assert set(kinds) <= {"blocking call", "waiting for a processor"} or not LINUX
