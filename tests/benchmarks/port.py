"""What a completion port costs, in one run with interleaved rounds.

    python tests/benchmarks/port.py [--backend epoll] [--rounds 7] [--idle 8000]

One thread: ``post`` and ``get``, beside ``put`` and ``get`` of ``queue.SimpleQueue``.  Between threads: a
stream of numbers (or of three values, which a queue takes as a tuple), taken one by one or in batches, and a
ball that two throw to and fro.  Idle sockets: each is bound and has a receive in flight;
how much CPU time a second of waiting costs.
"""

from __future__ import annotations

import argparse
import queue
import resource
import socket
import statistics
import threading
import time
from collections.abc import Callable
from functools import partial

import proactorx

COUNT = 50_000


def port_alone(backend: str | None) -> float:
    """Seconds for each post and get, in one thread."""
    with proactorx.CompletionPort(1, backend) as port:
        post, get = port.post, port.get
        before = time.perf_counter()
        for number in range(COUNT):
            post(number)
            get()
        return (time.perf_counter() - before) / COUNT


def queue_alone(_: str | None) -> float:
    """The same for a queue."""
    simple: queue.SimpleQueue[int] = queue.SimpleQueue()
    put, get = simple.put, simple.get
    before = time.perf_counter()
    for number in range(COUNT):
        put(number)
        get()
    return (time.perf_counter() - before) / COUNT


def _stream(
    put: Callable[[int], object], take: Callable[[int], object], producers: int = 1, consumers: int = 1
) -> float:
    """Seconds for each of ``COUNT`` that go from some threads to others."""

    def produce() -> None:
        for number in range(COUNT // producers):
            put(number)

    threads = [threading.Thread(target=produce) for _ in range(producers)]
    threads += [threading.Thread(target=take, args=(COUNT // consumers,)) for _ in range(consumers)]
    before = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return (time.perf_counter() - before) / COUNT


def _one_by_one(get: Callable[[], object]) -> Callable[[int], None]:
    def take(count: int) -> None:
        for _ in range(count):
            get()

    return take


def port_stream(backend: str | None, producers: int = 1, consumers: int = 1) -> float:
    """Seconds for each packet of a stream between threads."""
    with proactorx.CompletionPort(8, backend) as port:
        return _stream(port.post, _one_by_one(port.get), producers, consumers)


def queue_stream(_: str | None, producers: int = 1, consumers: int = 1) -> float:
    """The same for a queue."""
    simple: queue.SimpleQueue[int] = queue.SimpleQueue()
    return _stream(simple.put, _one_by_one(simple.get), producers, consumers)


def port_of_three(backend: str | None) -> float:
    """The same with three values in each packet."""
    with proactorx.CompletionPort(8, backend) as port:
        return _stream(lambda number: port.post(number, None, 3), _one_by_one(port.get))


def queue_of_three(_: str | None) -> float:
    """The same for a queue."""
    simple: queue.SimpleQueue[tuple[int, None, int]] = queue.SimpleQueue()
    return _stream(lambda number: simple.put((number, None, 3)), _one_by_one(simple.get))


def port_batches(backend: str | None) -> float:
    """Seconds for each packet of a stream that is taken by ``get_many``."""
    with proactorx.CompletionPort(8, backend) as port:

        def take(count: int) -> None:
            while count > 0:
                count -= len(port.get_many(256))

        return _stream(port.post, take)


def _ball(
    throw: Callable[[int], object], catch: Callable[[], object], back: Callable[[int], object]
) -> float:
    count = COUNT // 10
    before = time.perf_counter()
    for number in range(count):
        throw(number)
        catch()
    took = time.perf_counter() - before
    back(-1)
    return took / count


def port_ball(backend: str | None) -> float:
    """Seconds for a packet to another thread, and one back."""
    with proactorx.CompletionPort(1, backend) as here, proactorx.CompletionPort(1, backend) as there:

        def play() -> None:
            while there.get().key >= 0:
                here.post()

        thread = threading.Thread(target=play)
        thread.start()
        took = _ball(there.post, here.get, there.post)
        thread.join()
        return took


def queue_ball(_: str | None) -> float:
    """The same for two queues."""
    here: queue.SimpleQueue[int] = queue.SimpleQueue()
    there: queue.SimpleQueue[int] = queue.SimpleQueue()

    def play() -> None:
        while there.get() >= 0:
            here.put(0)

    thread = threading.Thread(target=play)
    thread.start()
    took = _ball(there.put, here.get, there.put)
    thread.join()
    return took


def idle(backend: str | None, count: int, seconds: float = 3.0) -> tuple[int, float]:
    """How many sockets there were, and the CPU time of a second in which nothing came."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 2 * count + 100)), hard))
    count = min(count, (resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 100) // 2)
    pairs = [socket.socketpair() for _ in range(count)]
    with proactorx.CompletionPort(1, backend) as port:
        for one, _other in pairs:
            port.bind(one)
            port.recv(one, 4096)
        port.get_many(1, 0.1)
        before = time.process_time()
        port.get_many(1, seconds)
        used = time.process_time() - before
    for one, other in pairs:
        one.close()
        other.close()
    return count, used / seconds


PAIRS = (
    ("one thread", port_alone, queue_alone),
    ("stream", port_stream, queue_stream),
    ("... of 3 values", port_of_three, queue_of_three),
    ("... by get_many", port_batches, queue_stream),
    ("1 to 4 threads", partial(port_stream, consumers=4), partial(queue_stream, consumers=4)),
    ("4 to 1 thread", partial(port_stream, producers=4), partial(queue_stream, producers=4)),
    ("ball", port_ball, queue_ball),
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backend")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--idle", type=int, default=8000)
    args = parser.parse_args()
    print(f"{'':16} {'port, us':>9} {'queue, us':>10} {'ratio':>6}")
    measured: dict[str, list[tuple[float, float]]] = {name: [] for name, *_ in PAIRS}
    for _ in range(args.rounds):
        for name, ours, theirs in PAIRS:
            measured[name].append((ours(args.backend), theirs(args.backend)))
    for name, rounds in measured.items():
        port_time = statistics.median(mine for mine, _ in rounds)
        queue_time = statistics.median(other for _, other in rounds)
        ratio = statistics.median(mine / other for mine, other in rounds)
        print(f"{name:16} {port_time * 1e6:9.2f} {queue_time * 1e6:10.2f} {ratio:6.2f}")
    count, used = idle(args.backend, args.idle)
    print(f"{count} idle sockets: {used * 1e3:.3f} ms of CPU time a second")


if __name__ == "__main__":
    main()
