"""Concurrency: two threads on a port with a limit of 1; the second runs only when the first lets it.

The first thread takes a packet and spins. It uses the processor, so the port holds the second packet back.
Then the first thread either takes that packet itself, or leaves the port, which releases the second thread.
"""

import argparse
import threading
import time

import proactorx


def run(backend: str | None, *, dissociate: bool) -> str:
    """Return the thread that got the second packet."""
    takers: dict[str, str] = {}
    first_has_it, enough = threading.Event(), threading.Event()

    with proactorx.CompletionPort(concurrency=1, backend=backend) as port:

        def first() -> None:
            takers[port.get().key] = "the first thread"
            first_has_it.set()
            while not enough.is_set():
                pass  # computes: the port would notice a sleep, and let the second thread run
            if dissociate:
                port.dissociate()
            else:
                for packet in port.get_many(1, timeout=0):
                    takers[packet.key] = "the first thread"

        def second() -> None:
            for packet in port.get_many(1, timeout=1):
                takers[packet.key] = "the second thread"

        threads = [threading.Thread(target=first), threading.Thread(target=second)]
        threads[0].start()
        port.post("packet 1")
        first_has_it.wait()
        threads[1].start()
        port.post("packet 2")
        time.sleep(0.3)
        print(f"  after 0.3 s of spinning: queued {port.queued}, running {port.running}", flush=True)
        enough.set()
        for thread in threads:
            thread.join()
    return takers["packet 2"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--backend", help="io_uring, epoll or select; the best one that runs here unless told"
    )
    args = parser.parse_args()
    print("the first thread comes back:")
    print(f"  packet 2 went to {run(args.backend, dissociate=False)}")
    print("the first thread dissociates:")
    print(f"  packet 2 went to {run(args.backend, dissociate=True)}")


if __name__ == "__main__":
    main()
