"""After fork() the child may not touch a port that its parent has used, and the parent does not notice it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork()")

SETUP = """
import os, socket, sys, threading
from drivers.contract.support import Owner, Sockets, descriptors, done, drain, quiet
from drivers.contract.variants import new_driver
from proactorx.ops.constants import ACCEPT, POLL, POLLIN, RECV, RECV_INTO, SEND
from proactorx.ops.op import Overlapped
from proactorx.port.loop_port import LoopPort

def child(function):
    pid = os.fork()
    if not pid:
        code = 1
        try:
            function()
            code = 0
        except BaseException as exc:
            import traceback
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, "the child failed"

def refused(call, *args):
    try:
        call(*args)
    except RuntimeError:
        return
    raise AssertionError(f"{call} was not refused")

sockets = Sockets()
port = LoopPort(new_driver(sys.argv[1]))
a, b = sockets.pair()
c, d = sockets.pair()
e, f = sockets.pair()
"""

PENDING = """
listener = sockets.listener()
target = bytearray(10)
accepts = Owner()
port.start(Overlapped(ACCEPT, listener.fileno(), on_done=accepts))
small = port.start(Overlapped(RECV, a.fileno(), size=10))
large = port.start(Overlapped(RECV_INTO, c.fileno(), data=target))
poll = port.start(Overlapped(POLL, e.fileno(), events=POLLIN))
port.run(0)
"""

EPILOGUE = """
b.send(b"small")
done(port, small)
assert small.result() == b"small"
d.send(b"large")
f.send(b"x")
done(port, large, poll)
assert target[:5] == b"large"
client = sockets.client(listener)
while not accepts.accepted:
    port.run(1)
accepts.close_accepted()
threading.Timer(0.05, port.wake).start()
port.run(6)
port.close()
sockets.__exit__(None, None, None)
print("parent is well")
"""


def _run(variant: str, code: str) -> None:
    tests = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", SETUP + code, variant],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tests), *sys.path])},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout.endswith("parent is well\n")


def test_the_child_is_refused_everything(variant: str) -> None:
    code = """
def in_child():
    refused(port.start, Overlapped(RECV, b.fileno(), size=1))
    refused(port.run, 0)
    refused(port.run, 0.01)
    port.stop(small)
    port.unpause(small)
    port.wake()
    port.attach_thread()
    port.detach_thread()
    port.forget(a.fileno())
    port.close()
    assert not small.done
child(in_child)
"""
    _run(variant, PENDING + code + EPILOGUE)


def test_the_child_may_make_a_port_of_its_own(variant: str) -> None:
    code = """
def in_child():
    own = LoopPort(new_driver(sys.argv[1]))
    for sock in sockets.made:
        sock.close()
    g, h = sockets.pair()
    op = own.start(Overlapped(RECV, g.fileno(), size=10))
    own.run(0)
    h.send(b"child")
    done(own, op)
    assert op.result() == b"child"
    threading.Timer(0.05, own.wake).start()
    own.run(6)
    own.close()
child(in_child)
child(lambda: child(in_child))
"""
    _run(variant, PENDING + code + EPILOGUE)


def test_the_child_frees_its_copy_of_the_port(variant: str) -> None:
    """Its descriptors are closed in the child alone; destroying the objects disturbs nobody."""
    code = """
before = descriptors()
def in_child():
    global port, small, large, poll, accepts
    assert descriptors() < before
    del port, small, large, poll, accepts
    import gc
    gc.collect()
child(in_child)
assert descriptors() == before
"""
    _run(variant, PENDING + code + EPILOGUE)


def test_a_child_that_ends_as_python_programs_do(variant: str) -> None:
    """The interpreter is finalized in the child: destructors and exit handlers run."""
    code = """
pid = os.fork()
if not pid:
    for sock in sockets.made:
        sock.close()
    sys.exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
"""
    _run(variant, PENDING + code + EPILOGUE)


def test_a_fork_with_packets_that_wait(variant: str) -> None:
    """Data has come but was not dispatched: it is the parent's."""
    code = """
b.send(b"small")
def in_child():
    refused(port.run, 0)
    assert not small.done
child(in_child)
done(port, small)
assert small.result() == b"small"
small = port.start(Overlapped(RECV, a.fileno(), size=10))
"""
    _run(variant, PENDING + code + EPILOGUE)


def test_a_port_that_was_not_used_before_the_fork_serves_parent_and_child(variant: str) -> None:
    code = """
def in_child():
    theirs, other = sockets.pair()
    op = port.start(Overlapped(RECV, theirs.fileno(), size=10))
    port.run(0)
    other.send(b"child")
    done(port, op)
    assert op.result() == b"child"
    port.close()
child(in_child)
"""
    _run(variant, code + PENDING + EPILOGUE)


def test_many_forks(variant: str) -> None:
    _run(
        variant,
        PENDING
        + "for _ in range(20):\n    child(lambda: refused(port.run, 0))\n    port.run(0)\n"
        + EPILOGUE,
    )
