"""Processes forked from a program with a loop: the parent is unharmed,
the child can run a loop of its own.
"""

from __future__ import annotations

import multiprocessing
import sys

import pytest

from .helpers import Factory, run_script

pytestmark = pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods() or sys.platform == "darwin",
    reason="no safe fork here",
)

HEAD = """
import multiprocessing, os, signal, sys, threading, time, traceback, warnings

warnings.simplefilter("ignore", DeprecationWarning)  # forks of programs with threads are what is tested


async def serve(reader, writer):
    while data := await reader.read(100):
        writer.write(data)
    writer.close()


class Talk:
    async def open(self):
        self.tasks = []
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        self.address = self.server.sockets[0].getsockname()
        self.reader, self.writer = await asyncio.open_connection(*self.address)

    async def serve(self, reader, writer):
        self.tasks.append(asyncio.current_task())
        await serve(reader, writer)

    async def check(self, word):
        async with asyncio.timeout(8):
            self.writer.write(word)
            assert await self.reader.readexactly(len(word)) == word
            reader, writer = await asyncio.open_connection(*self.address)
            writer.write(b"new")
            assert await reader.readexactly(3) == b"new"
            writer.close()
            await writer.wait_closed()

    async def close(self):
        self.writer.close()
        await self.writer.wait_closed()
        self.server.close()
        await self.server.wait_closed()
        await asyncio.gather(*self.tasks)  # wait_closed() of Python 3.11 does not wait for connections


async def conversation():
    talk = Talk()
    await talk.open()
    for i in range(10):
        await talk.check(b"%d" % i)
    assert await asyncio.to_thread(abs, -5) == 5
    await talk.close()


def run_new_loop():
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(conversation())


def in_child(body):
    pid = os.fork()
    if pid:
        return pid
    signal.alarm(10)  # a child that hangs is killed, and its status says so
    status = 9
    try:
        body()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def status_of(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
"""


NEVER_USED = """
loop = new_loop()
started = []
loop.call_soon(started.append, 1)

def run():
    came = asyncio.Event()
    loop.add_signal_handler(signal.SIGUSR1, came.set)
    loop.run_until_complete(conversation())
    assert started == [1]
    os.kill(os.getpid(), signal.SIGUSR1)
    loop.run_until_complete(asyncio.wait_for(came.wait(), 8))
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()
"""


def fork_script(factory: Factory, source: str) -> None:
    assert run_script(factory, HEAD + source).endswith("end\n")


def test_from_a_coroutine(loop_factory: Factory) -> None:
    source = """
async def main():
    talk = Talk()
    await talk.open()
    loop = asyncio.get_running_loop()
    timer = loop.create_future()
    loop.call_later(0.2, timer.set_result, "timer")
    for i in range(3):
        await talk.check(b"before")
        pid = in_child(run_new_loop)
        await talk.check(b"while the child lives")
        assert await asyncio.to_thread(status_of, pid) == 0
        await talk.check(b"after")
    assert await timer == "timer"
    await talk.close()

with asyncio.Runner(loop_factory=new_loop) as runner:
    runner.run(main())
print("end")
"""
    fork_script(loop_factory, source)


RESTING = """
loop = new_loop()
talk = Talk()
loop.run_until_complete(talk.open())
pending = loop.create_task(asyncio.sleep(0.1, "slept"))
loop.run_until_complete(asyncio.sleep(0))

def child():
    run_new_loop()
    {end}

pid = in_child(child)
loop.run_until_complete(talk.check(b"while the child lives"))
assert status_of(pid) == 0
loop.run_until_complete(talk.check(b"after"))
assert loop.run_until_complete(pending) == "slept"
loop.run_until_complete(talk.close())
loop.close()
print("end")
"""


def test_with_a_loop_that_rests(loop_factory: Factory) -> None:
    fork_script(loop_factory, RESTING.format(end=""))


@pytest.mark.ours
def test_with_a_loop_that_rests_and_a_child_that_finalizes_all(loop_factory: Factory) -> None:
    """The child collects the parent's loop and connections;
    on stock asyncio that can stop the parent's connection.
    """
    source = """
    warnings.simplefilter("ignore", ResourceWarning)
    sys.stderr = open(os.devnull, "w")
    pending = talk = loop = None
    import gc
    gc.collect()
    run_new_loop()
"""
    fork_script(loop_factory, RESTING.format(end="global pending, talk, loop" + source))


@pytest.mark.ours
def test_with_a_loop_that_rests_and_a_child_that_ends_as_programs_do(loop_factory: Factory) -> None:
    """Through the interpreter's finalization, with the parent's loop still in its memory."""
    source = """
loop = new_loop()
talk = Talk()
loop.run_until_complete(talk.open())
pid = os.fork()
if pid == 0:
    signal.alarm(10)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    run_new_loop()
    sys.exit(0)
loop.run_until_complete(talk.check(b"while the child lives"))
assert status_of(pid) == 0
loop.run_until_complete(talk.check(b"after"))
loop.run_until_complete(talk.close())
loop.close()
print("end")
"""
    fork_script(loop_factory, source)


def test_from_another_thread(loop_factory: Factory) -> None:
    source = """
def body():
    pid = in_child(run_new_loop)
    return status_of(pid)

async def main():
    talk = Talk()
    await talk.open()
    forked = asyncio.ensure_future(asyncio.to_thread(body))
    while not forked.done():
        await talk.check(b"while the child lives")
    assert await forked == 0
    await talk.check(b"after")
    await talk.close()

with asyncio.Runner(loop_factory=new_loop) as runner:
    runner.run(main())
print("end")
"""
    fork_script(loop_factory, source)


def test_while_another_thread_runs_a_loop(loop_factory: Factory) -> None:
    source = """
loop = new_loop()
talk = Talk()
ready = threading.Event()

async def main():
    await talk.open()
    ready.set()
    await asked.wait()
    await talk.check(b"after")
    await talk.close()

asked = asyncio.Event()
thread = threading.Thread(target=loop.run_until_complete, args=(main(),))
thread.start()
assert ready.wait(10)
time.sleep(0.02)
for _ in range(3):
    assert status_of(in_child(run_new_loop)) == 0
run_new_loop()
loop.call_soon_threadsafe(asked.set)
thread.join(10)
assert not thread.is_alive()
loop.close()
print("end")
"""
    fork_script(loop_factory, source)


def test_multiprocessing(loop_factory: Factory) -> None:
    source = """
context = multiprocessing.get_context("fork")

def child(queue):
    run_new_loop()
    queue.put("from the child")

async def main():
    talk = Talk()
    await talk.open()
    queue = context.Queue()
    process = context.Process(target=child, args=(queue,))
    process.start()
    await talk.check(b"while the child lives")
    assert await asyncio.to_thread(queue.get, True, 10) == "from the child"
    await asyncio.to_thread(process.join, 10)
    assert process.exitcode == 0
    await talk.check(b"after")
    await talk.close()
    queue.close()

with asyncio.Runner(loop_factory=new_loop) as runner:
    runner.run(main())
print("end")
"""
    fork_script(loop_factory, source)


def test_a_pool_of_forked_processes_as_executor(loop_factory: Factory) -> None:
    source = """
from concurrent.futures import ProcessPoolExecutor

def work(number):
    run_new_loop()
    return number * number

async def main():
    talk = Talk()
    await talk.open()
    loop = asyncio.get_running_loop()
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork")) as pool:
        calls = [loop.run_in_executor(pool, work, i) for i in range(4)]
        await talk.check(b"while the children live")
        assert await asyncio.gather(*calls) == [0, 1, 4, 9]
    await talk.check(b"after")
    await talk.close()

with asyncio.Runner(loop_factory=new_loop) as runner:
    runner.run(main())
print("end")
"""
    fork_script(loop_factory, source)


def test_a_daemon(loop_factory: Factory) -> None:
    """Forked twice, as daemons are; it serves the process it came from."""
    source = """
loop = new_loop()
loop.run_until_complete(conversation())
reading, writing = os.pipe()

async def daemon():
    server = await asyncio.start_server(serve_once, "127.0.0.1", 0)
    os.write(writing, b"%d" % server.sockets[0].getsockname()[1])
    await served.wait()
    server.close()
    await server.wait_closed()

async def serve_once(reader, writer):
    await serve(reader, writer)
    await writer.wait_closed()
    served.set()

def daemonize():
    os.setsid()
    in_child(run_daemon)

def run_daemon():
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(daemon())

async def client():
    port = int(await loop.run_in_executor(None, os.read, reading, 10))
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"hello")
    assert await asyncio.wait_for(reader.readexactly(5), 8) == b"hello"
    writer.close()
    await writer.wait_closed()

served = asyncio.Event()
assert status_of(in_child(daemonize)) == 0
loop.run_until_complete(client())
loop.run_until_complete(conversation())
loop.run_until_complete(loop.shutdown_default_executor())
loop.close()
print("end")
"""
    fork_script(loop_factory, source)


def test_a_child_of_a_child(loop_factory: Factory) -> None:
    source = """
def child():
    async def body():
        talk = Talk()
        await talk.open()
        pid = in_child(run_new_loop)
        await talk.check(b"in the child")
        assert await asyncio.to_thread(status_of, pid) == 0
        await talk.close()
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(body())

child()
assert status_of(in_child(child)) == 0
child()
print("end")
"""
    fork_script(loop_factory, source)


# what the child does with the parent's loop; stock asyncio shares its selector there, and breaks


@pytest.mark.ours
def test_the_parents_loop_is_dead_in_the_child(loop_factory: Factory) -> None:
    source = """
loop = new_loop()
talk = Talk()
loop.run_until_complete(talk.open())

def touch(call):
    try:
        call()
    except RuntimeError as exc:
        assert str(exc)
    else:
        raise AssertionError("no error")

def child():
    future = loop.create_future()
    touch(loop.run_forever)
    touch(lambda: loop.run_until_complete(future))
    touch(lambda: loop.call_soon_threadsafe(print))
    run_new_loop()

def child_that_closes():
    loop.close()
    loop.close()
    run_new_loop()

for body in (child, child_that_closes):
    assert status_of(in_child(body)) == 0
    loop.run_until_complete(talk.check(b"after"))
loop.run_until_complete(talk.close())
loop.close()
print("end")
"""
    fork_script(loop_factory, source)


@pytest.mark.ours  # on stock asyncio they share a selector, which is made with the loop
def test_a_loop_that_was_never_used_serves_parent_and_children(loop_factory: Factory) -> None:
    fork_script(
        loop_factory,
        NEVER_USED
        + """
children = [in_child(run) for _ in range(2)]
run()
assert [status_of(pid) for pid in children] == [0, 0]
print("end")
""",
    )


def test_a_loop_that_was_never_used_serves_a_child(loop_factory: Factory) -> None:
    """Made before the fork, as where a master imports the application and its workers run it."""
    fork_script(
        loop_factory,
        NEVER_USED
        + """
assert status_of(in_child(run)) == 0
print("end")
""",
    )


@pytest.mark.ours
def test_a_child_that_returns_into_the_parents_loop(loop_factory: Factory) -> None:
    """It forks in a callback and forgets to leave: it gets an error out of the run, not a hang."""
    source = """
loop = new_loop()
talk = Talk()
loop.run_until_complete(talk.open())
pids = []

def fork():
    pids.append(os.fork())
    if pids[-1] == 0:
        signal.alarm(10)

loop.call_soon(fork)
try:
    loop.run_until_complete(asyncio.sleep(0.05))
except RuntimeError as exc:
    os._exit(7 if pids[-1] == 0 and str(exc) else 1)
if pids[-1] == 0:
    os._exit(2)
loop.run_until_complete(talk.check(b"after"))
assert status_of(pids[-1]) == 7
loop.run_until_complete(talk.check(b"after"))
loop.run_until_complete(talk.close())
loop.close()
print("end")
"""
    fork_script(loop_factory, source)


@pytest.mark.ours
def test_a_child_that_leaves_by_sys_exit_from_a_coroutine(loop_factory: Factory) -> None:
    """It unwinds through the parent's runner, which would cancel tasks and close connections."""
    source = """
async def main():
    talk = Talk()
    await talk.open()
    pid = os.fork()
    if pid == 0:
        signal.alarm(10)
        sys.stderr = open(os.devnull, "w")
        os.dup2(sys.stderr.fileno(), 2)
        sys.exit(0)
    await talk.check(b"while the child lives")
    assert await asyncio.to_thread(status_of, pid) >= 0
    await talk.check(b"after")
    await talk.close()

with asyncio.Runner(loop_factory=new_loop) as runner:
    runner.run(main())
print("end")
"""
    fork_script(loop_factory, source)


@pytest.mark.ours
def test_a_childs_signals_are_not_the_parents(loop_factory: Factory) -> None:
    """On stock asyncio a signal sent to the child runs the parent's handler:
    they share the wakeup descriptor.
    """
    source = """
async def main():
    loop = asyncio.get_running_loop()
    seen = []
    loop.add_signal_handler(signal.SIGUSR1, seen.append, "parent's")
    reading, writing = os.pipe()

    def child():
        os.kill(os.getpid(), signal.SIGUSR1)
        os.write(writing, b"x")

    pid = in_child(child)
    assert await asyncio.to_thread(status_of, pid) == 0
    assert os.read(reading, 1) == b"x"
    await asyncio.sleep(0.02)
    assert seen == [], seen
    os.kill(os.getpid(), signal.SIGUSR1)
    async with asyncio.timeout(8):
        while not seen:
            await asyncio.sleep(0.001)
    assert seen == ["parent's"]

with asyncio.Runner(loop_factory=new_loop) as runner:
    runner.run(main())
print("end")
"""
    fork_script(loop_factory, source)
