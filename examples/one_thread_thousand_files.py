"""One thread, a thousand files, all read at once.

Each file is bound with its path as the key, and has one read in flight. The packets arrive in the order in
which the reads end.
"""

import argparse
import contextlib
import os
import sys
import tempfile
import threading
import zlib
from pathlib import Path

import proactorx

FILES = 1000
SIZE = 4096


def allow_files(count: int) -> None:
    """Raise the limit of open files: it is often 1,024 on POSIX, and 8,192 in Windows' C library."""
    if sys.platform != "win32":
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft < count:
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(count, hard), hard))


def make_files(folder: Path) -> dict[Path, int]:
    """The files, and the checksum of each."""
    made = {}
    for number in range(FILES):
        path = folder / f"{number:04}"
        data = os.urandom(SIZE)
        path.write_bytes(data)
        made[path] = zlib.crc32(data)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--backend", help="io_uring, epoll or select; the best one that runs here unless told"
    )
    args = parser.parse_args()

    allow_files(FILES + 100)

    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.ExitStack() as files,
        proactorx.CompletionPort(backend=args.backend) as port,
    ):
        expected = make_files(Path(folder))
        for path in expected:
            file = files.enter_context(path.open("rb", buffering=0))
            port.bind(file, path)
            port.read(file, SIZE, 0)

        right = total = 0
        while total < FILES:
            for packet in port.get_many(256):
                right += zlib.crc32(packet.overlapped.result()) == expected[packet.key]
                total += 1
        users = [thread for thread in threading.enumerate() if not thread.name.startswith("proactorx-")]
        print(f"{total} files read, {right} of them right, by {len(users)} thread of this program")


if __name__ == "__main__":
    main()
