"""Files: proactorx.files beside `run_in_executor` and aiofiles on stock asyncio.

    python tests/benchmarks/files.py [--rounds 3] [--rows randread] [--folder /tmp/files-benchmark]

Each sample is a process of its own, and the libraries take turns, round by round.  A cell is the median of the rounds'
ratios to `run_in_executor` of operations per second: 2 means twice as many.
"""

import argparse
import asyncio
import itertools
import json
import os
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path

BLOCK = 4096
BIG = 256 << 20
SMALL_FILES = 3000
LINES = 100_000
ROWS = (
    "randread/1",
    "randread/32",
    "randread/256",
    "cold/32",
    "smallfiles/1",
    "smallfiles/64",
    "writesync/16",
    "lines/1",
)
WHO = ("executor", "aiofiles", "io_uring", "epoll", "plain")


def prepare(folder: Path) -> None:
    (folder / "small").mkdir(parents=True, exist_ok=True)
    big = folder / "big"
    if not big.exists() or big.stat().st_size != BIG:
        with big.open("wb") as file:
            for i in range(BIG // BLOCK):
                file.write(i.to_bytes(8, "little") + bytes(BLOCK - 8))
    if not (folder / "small" / str(SMALL_FILES - 1)).exists():
        for i in range(SMALL_FILES):
            (folder / "small" / str(i)).write_bytes(i.to_bytes(8, "little") * 256)
    if not (folder / "lines").exists():
        (folder / "lines").write_text("".join(f"this is line {i}\n" for i in range(LINES)))


class Plain:
    """Blocking calls in the loop's thread: the floor, not something to use."""

    async def open(self, path):
        return os.open(path, os.O_RDONLY)

    async def close(self, fd):
        os.close(fd)

    async def read_at(self, fd, offset):
        return os.pread(fd, BLOCK, offset)

    async def read_file(self, path):
        return Path(path).read_bytes()  # noqa: ASYNC240

    async def write_sync(self, path, data):
        with open(path, "wb", 0) as file:  # noqa: ASYNC230
            file.write(data)
            os.fsync(file.fileno())

    async def count_lines(self, path):
        with open(path) as file:  # noqa: ASYNC230
            return sum(1 for _ in file)


class Executor(Plain):
    """Each of them in `run_in_executor`."""

    async def _run(self, function, *args):
        return await asyncio.get_running_loop().run_in_executor(None, function, *args)

    async def read_at(self, fd, offset):
        return await self._run(os.pread, fd, BLOCK, offset)

    async def read_file(self, path):
        return await self._run(Path(path).read_bytes)

    async def write_sync(self, path, data):
        def write():
            with open(path, "wb", 0) as file:
                file.write(data)
                os.fsync(file.fileno())

        await self._run(write)

    async def count_lines(self, path):
        count = 0
        with open(path) as file:  # noqa: ASYNC230
            while await self._run(file.readline):
                count += 1
        return count


class Aiofiles:
    def __init__(self):
        import aiofiles

        self.files = aiofiles

    async def open(self, path):
        return await self.files.open(path, "rb", buffering=0)

    async def close(self, handle):
        await handle.close()

    async def read_at(self, handle, offset):
        await handle.seek(offset)
        return await handle.read(BLOCK)

    async def read_file(self, path):
        async with self.files.open(path, "rb", buffering=0) as handle:
            return await handle.read()

    async def write_sync(self, path, data):
        async with self.files.open(path, "wb", buffering=0) as handle:
            await handle.write(data)
            await asyncio.to_thread(os.fsync, handle.fileno())

    async def count_lines(self, path):
        count = 0
        async with self.files.open(path) as handle:
            async for _ in handle:
                count += 1
        return count


class Proactorx(Aiofiles):
    def __init__(self):
        from proactorx import files

        self.files = files

    async def read_at(self, handle, offset):
        return await handle.pread(BLOCK, offset)

    async def read_file(self, path):
        return await self.files.read_bytes(path)

    async def write_sync(self, path, data):
        async with self.files.open(path, "wb", buffering=0) as handle:
            await handle.write(data)
            await handle.fsync()


async def sample(library, row: str, folder: Path) -> float:
    """Operations per second."""
    kind, depth = row.split("/")
    workers, numbers = int(depth), random.Random(1)
    big = str(folder / "big")
    handles = [await library.open(big) for _ in range(workers)] if kind in ("randread", "cold") else []
    if kind == "cold":
        with open(big, "rb") as file:  # noqa: ASYNC230
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
    total = {"randread": 6000 if workers == 1 else 20000, "cold": 8000, "smallfiles": SMALL_FILES, "writesync": 480}
    jobs = iter([numbers.randrange(BIG // BLOCK) if handles else i for i in range(total.get(kind, 0))])

    async def work(i: int) -> None:
        for n in jobs:
            if handles:
                data = await library.read_at(handles[i], n * BLOCK)
            elif kind == "smallfiles":
                data = await library.read_file(str(folder / "small" / str(n)))
            else:
                await library.write_sync(str(folder / f"out{n}"), bytes(BLOCK))
                continue
            if int.from_bytes(data[:8], "little") != n:
                raise RuntimeError("wrong bytes")

    begun = time.perf_counter()
    if kind == "lines":
        done = await library.count_lines(str(folder / "lines"))
    else:
        await asyncio.gather(*(work(i) for i in range(workers)))
        done = total[kind]
    took = time.perf_counter() - begun
    for handle in handles:
        await library.close(handle)
    return done / took


def one(who: str, row: str, folder: Path) -> None:
    library = {"executor": Executor, "aiofiles": Aiofiles, "plain": Plain}.get(who, Proactorx)
    factory = None
    if library is Proactorx:
        import proactorx

        factory = lambda: proactorx.new_event_loop(who)  # noqa: E731

    async def main() -> float:
        return await sample(library(), row, folder)

    with asyncio.Runner(loop_factory=factory) as runner:
        print(json.dumps(runner.run(main())))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", default="", help="only those that begin so")
    parser.add_argument("--folder", type=Path, default=Path("/tmp/files-benchmark"))
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        one(*args.one, args.folder)
        return
    prepare(args.folder)
    print(f"| {'row':14} | executor, 1/s |" + "".join(f" {who} |" for who in WHO[1:]))
    print("|---|---:|" + "---:|" * (len(WHO) - 1))
    for row in ROWS:
        if not row.startswith(args.rows):
            continue
        found: dict[str, list[float]] = {who: [] for who in WHO}
        for turn, who in itertools.product(range(args.rounds), range(len(WHO))):
            name = WHO[(who + turn) % len(WHO)]
            command = [sys.executable, __file__, "--folder", str(args.folder), "--one", name, row]
            done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
            found[name].append(json.loads(done.stdout))
        base = found["executor"]
        ratios = [statistics.median(a / b for a, b in zip(found[who], base, strict=True)) for who in WHO[1:]]
        print(
            f"| {row:14} | {statistics.median(base):.0f} |" + "".join(f" {ratio:.2f} |" for ratio in ratios), flush=True
        )


if __name__ == "__main__":
    main()
