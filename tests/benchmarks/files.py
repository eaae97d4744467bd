"""Files: proactorx.files beside `run_in_executor`, aiofiles and other packages on stock asyncio.

    python tests/benchmarks/files.py [--rounds 3] [--rows randread] [--folder /tmp/files-benchmark]

Each sample is a process of its own, and the libraries take turns, round by round.  A cell is the median of
the rounds' ratios to `run_in_executor` of operations per second: 2 means twice as many.  The last rows are
compared with cat(1) and fio(1).  Packages that are not installed are left out.

The last column is how late a timer of 1 ms on the same loop was at the 99th percentile, in milliseconds: on
io_uring, on epoll, and with no other work on the loop at all.
The samples with a timer count for nothing else.

Run by root, samples are scheduled before the other processes of the machine (SCHED_RR, sched(7)).
"""

import argparse
import asyncio
import contextlib
import functools
import importlib.util
import itertools
import json
import os
import random
import shutil
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
    "names/1",
    "names/16",
    "lines/1",
    "sequential/1",
    "direct/32",
)
PEERS = ("aiofiles", "turbofile", "aiofile", "urio")
WHO = ("executor", *(name for name in PEERS if importlib.util.find_spec(name)), "io_uring", "epoll", "plain")
#: The rows that are compared with a program: its name, and who is compared.
PROGRAMS = {"sequential": ("cat", "aiofiles", "io_uring", "epoll"), "direct": ("fio", "io_uring", "epoll")}
HUGE = 1 << 30
DIRECT_READS = 40_000


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
    huge = folder / "huge"
    if not huge.exists() or huge.stat().st_size != HUGE:
        with huge.open("wb") as file:
            for _ in range(HUGE >> 20):
                file.write(os.urandom(1 << 20))
    if not (folder / "lines").exists():
        (folder / "lines").write_text("".join(f"this is line {i}\n" for i in range(LINES)))


@functools.cache
def places(count: int, size: int) -> list[int]:
    """Numbers of blocks of a file, in any order; made once, as it takes as long as some thousand reads."""
    numbers = random.Random(1)
    return [numbers.randrange(size // BLOCK) for _ in range(count)]


def read_whole(path: str) -> bytes:
    with open(path, "rb", 0) as file:
        return file.read()


def drop_from_cache(path: str) -> None:
    with open(path, "rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@functools.cache
def small_paths(folder: Path) -> list[str]:
    """Made once: joining a path takes longer than reading such a file."""
    return [str(folder / "small" / str(i)) for i in range(SMALL_FILES)]


def make_files(folder: Path, count: int) -> None:
    for n in range(count):
        (folder / f"name{n}").touch()


class Plain:
    """Blocking calls in the loop's thread: the floor, not something to use."""

    async def open(self, path):
        return os.open(path, os.O_RDONLY)

    async def close(self, fd):
        os.close(fd)

    async def read_at(self, fd, offset):
        return os.pread(fd, BLOCK, offset)

    async def read_file(self, path):
        return read_whole(path)

    async def write_sync(self, path, data):
        with open(path, "wb", 0) as file:  # noqa: ASYNC230
            file.write(data)
            os.fsync(file.fileno())

    async def rename_and_remove(self, path, other):
        os.rename(path, other)
        os.remove(other)

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
        return await self._run(read_whole, path)

    async def write_sync(self, path, data):
        def write():
            with open(path, "wb", 0) as file:
                file.write(data)
                os.fsync(file.fileno())

        await self._run(write)

    async def rename_and_remove(self, path, other):
        await self._run(os.rename, path, other)
        await self._run(os.remove, other)

    async def count_lines(self, path):
        count = 0
        with open(path) as file:  # noqa: ASYNC230
            while await self._run(file.readline):
                count += 1
        return count


class Aiofiles:
    def __init__(self):
        import aiofiles
        import aiofiles.os

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

    async def rename_and_remove(self, path, other):
        await self.files.os.rename(path, other)
        await self.files.os.remove(other)

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


class Turbofile(Aiofiles):
    def __init__(self):
        import turbofile

        self.files = turbofile

    async def open(self, path):
        return await self.files.open(path, "rb")

    async def read_at(self, handle, offset):
        return await handle.read_at(offset, BLOCK)

    async def read_file(self, path):
        return await self.files.read_bytes(path)

    async def write_sync(self, path, data):
        async with self.files.open(path, "wb", buffering=0) as handle:
            await handle.write(data)
            await asyncio.to_thread(os.fsync, await handle.fileno())

    async def rename_and_remove(self, path, other):
        raise NotImplementedError

    async def count_lines(self, path):
        raise NotImplementedError


class Aiofile(Aiofiles):
    def __init__(self):
        import aiofile

        self.files = aiofile

    async def open(self, path):
        handle = self.files.AIOFile(path, "rb")
        await handle.open()
        return handle

    async def read_at(self, handle, offset):
        return await handle.read_bytes(BLOCK, offset)

    async def read_file(self, path):
        async with self.files.AIOFile(path, "rb") as handle:
            return await handle.read_bytes()

    async def write_sync(self, path, data):
        async with self.files.AIOFile(path, "wb") as handle:
            await handle.write_bytes(data)
            await handle.fsync()

    async def rename_and_remove(self, path, other):
        raise NotImplementedError

    async def count_lines(self, path):
        raise NotImplementedError


class Urio(Aiofiles):
    def __init__(self):
        import urio

        self.files = urio

    async def open(self, path):
        return await self.files.open(path, "rb")

    async def read_file(self, path):
        return await self.files.Path(path).read_bytes()

    async def write_sync(self, path, data):
        async with self.files.open(path, "wb") as handle:
            await handle.write(data)
            await handle.flush()
            await handle.fsync()

    async def rename_and_remove(self, path, other):
        raise NotImplementedError

    async def count_lines(self, path):
        raise NotImplementedError


LIBRARIES = {
    "executor": Executor,
    "aiofiles": Aiofiles,
    "plain": Plain,
    "turbofile": Turbofile,
    "aiofile": Aiofile,
    "urio": Urio,
}


def resident() -> tuple[int, int]:
    """KiB that this process has in memory: its own, and all, with code.

    Not ru_maxrss: the kernel counts that on each CPU and adds it up when it has time, here 256 KiB late.
    """
    text = Path("/proc/self/smaps_rollup").read_text()
    found = {line.split(":")[0]: int(line.split()[1]) for line in text.splitlines()[1:]}
    return found["Anonymous"], found["Rss"]


async def in_pieces(library, path: str, look: bool) -> list[tuple[int, int]]:
    """Read a file in pieces of 128 KiB; `resident` before, and now and then, if asked to `look`."""
    handle = await library.files.open(path, "rb", buffering=0)
    buffer, count = bytearray(128 << 10), 0
    seen = [resident(), resident()][1:] if look else []
    while await handle.readinto(buffer):
        count += 1
        if look and (count < 16 or count % 64 == 0):
            seen.append(resident())
    await handle.close()
    return seen


async def tell_growth(library, path: str) -> None:
    """How much more memory reading takes, with a cold cache and then with a warm one."""
    drop_from_cache(path)
    for cache in ("cold", "warm"):
        seen = await in_pieces(library, path, True)
        own, with_code = (max(found) - found[0] for found in zip(*seen, strict=True))
        print(
            f"{cache}: memory has grown by {own} KiB, with code that is used first by {with_code}",
            file=sys.stderr,
        )


async def sequential(library, folder: Path) -> float:
    """MiB per second."""
    begun = time.perf_counter()
    await in_pieces(library, str(folder / "huge"), False)
    return HUGE / (time.perf_counter() - begun) / (1 << 20)


async def direct(library, folder: Path, depth: int) -> float:
    """Random reads of 4 KiB past the page cache."""
    jobs = iter(places(DIRECT_READS, HUGE))
    async with library.files.open(str(folder / "huge"), "rb", direct=True) as handle:

        async def work() -> None:
            buffer = library.files.aligned(BLOCK)
            for n in jobs:
                if await handle.pread_into(buffer, n * BLOCK) != BLOCK:
                    raise RuntimeError("short read")

        begun = time.perf_counter()
        await asyncio.gather(*(work() for _ in range(depth)))
        return DIRECT_READS / (time.perf_counter() - begun)


def cat(folder: Path) -> float:
    begun = time.perf_counter()
    with open(os.devnull, "wb") as nowhere:
        subprocess.run(["cat", str(folder / "huge")], stdout=nowhere, check=True)
    return HUGE / (time.perf_counter() - begun) / (1 << 20)


def fio(folder: Path) -> float:
    command = ["fio", "--name=x", f"--filename={folder / 'huge'}", "--rw=randread", "--bs=4k", "--iodepth=32"]
    command += ["--ioengine=io_uring", "--direct=1", f"--number_ios={DIRECT_READS}", "--output-format=json"]
    found = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    return float(found["jobs"][0]["read"]["iops"])


async def sample(library, row: str, folder: Path) -> float:
    """Operations per second."""
    kind, depth = row.split("/")
    workers = int(depth)
    if kind == "sequential":
        return await sequential(library, folder)
    if kind == "direct":
        return await direct(library, folder, workers)
    big = str(folder / "big")
    handles = [await library.open(big) for _ in range(workers)] if kind in ("randread", "cold") else []
    if kind == "cold":
        drop_from_cache(big)
    total = {
        "randread": 6000 if workers == 1 else 20000,
        "cold": 8000,
        "smallfiles": SMALL_FILES,
        "writesync": 480,
        "names": 600,
    }
    jobs = iter(places(total[kind], BIG) if handles else range(total.get(kind, 0)))
    small = small_paths(folder) if kind == "smallfiles" else []

    async def work(i: int) -> None:
        for n in jobs:
            if handles:
                data = await library.read_at(handles[i], n * BLOCK)
            elif kind == "names":
                await library.rename_and_remove(f"{folder}/name{n}", f"{folder}/other{n}")
                continue
            elif kind == "smallfiles":
                data = await library.read_file(small[n])
            else:
                await library.write_sync(str(folder / f"out{n}"), bytes(BLOCK))
                continue
            if int.from_bytes(data[:8], "little") != n:
                raise RuntimeError("wrong bytes")

    if kind == "names":
        await asyncio.to_thread(make_files, folder, total[kind])
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


async def timed(library, row: str, folder: Path) -> list[float]:
    """How late a timer of 1 ms beside it is at the 99th percentile, and with nothing beside it,
    in milliseconds.
    """
    loop, found = asyncio.get_running_loop(), []

    async def tick(late: list[float]) -> None:
        while True:
            due = loop.time() + 1e-3
            await asyncio.sleep(1e-3)
            late.append((loop.time() - due) * 1e3)

    await sample(library, row, folder)

    async def work() -> None:
        until = loop.time() + 1
        while loop.time() < until:
            await sample(library, row, folder)

    for job in (work(), asyncio.sleep(1)):
        late: list[float] = []
        ticking = asyncio.ensure_future(tick(late))
        await job
        ticking.cancel()
        found.append(sorted(late)[len(late) * 99 // 100] if late else float("inf"))
    return found


def one(who: str, row: str, folder: Path, timer: bool) -> None:
    """One sample, in this process; None where the library cannot do that."""
    if who in ("cat", "fio"):
        print(json.dumps({"cat": cat, "fio": fio}[who](folder)))
        return
    library = LIBRARIES.get(who, Proactorx)
    factory = None
    if library is Proactorx:
        import proactorx

        factory = lambda: proactorx.new_event_loop(who)  # noqa: E731

    async def main() -> object:
        if library is Proactorx and row == "sequential/1" and not timer:
            await tell_growth(library(), str(folder / "huge"))
        try:
            return await (timed if timer else sample)(library(), row, folder)
        except NotImplementedError:
            return None

    with asyncio.Runner(loop_factory=factory) as runner:
        print(json.dumps(runner.run(main())))


def ahead_of_others() -> None:
    with contextlib.suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))


def compare(row: str, rounds: int, run) -> str:
    """A row of the table."""
    who = PROGRAMS.get(row.split("/")[0], WHO)
    if shutil.which(who[0]) is None and who is not WHO:
        return f"| {row:14} | no {who[0]}(1) here |"
    found: dict[str, list[float]] = {name: [] for name in who}
    for turn, place in itertools.product(range(rounds), range(len(who))):
        name = who[(place + turn) % len(who)]
        found[name].append(run(name, row))
    base = found[who[0]]
    cells = [f"{who[0]} {statistics.median(base):.0f}"]
    for name in WHO[1:]:
        if name not in found or None in found[name]:
            cells.append("")
        else:
            cells.append(f"{statistics.median(a / b for a, b in zip(found[name], base, strict=True)):.2f}")
    late = [run(name, row, "--timer") for name in ("io_uring", "epoll")]
    cells.append(f"{late[0][0]:.1f}, {late[1][0]:.1f}; {max(late[0][1], late[1][1]):.1f}")
    return f"| {row:14} | " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", default="", help="only those that begin so")
    parser.add_argument("--folder", type=Path, default=Path("/tmp/files-benchmark"))
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--timer", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        one(*args.one, args.folder, args.timer)
        return
    prepare(args.folder)

    def run(name: str, row: str, *more: str):
        command = [sys.executable, __file__, "--folder", str(args.folder), "--one", name, row, *more]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True, preexec_fn=ahead_of_others)
        return json.loads(done.stdout)

    print(f"| {'row':14} | 1/s |" + "".join(f" {name} |" for name in WHO[1:]) + " timer late, ms |")
    print("|---|---:|" + "---:|" * len(WHO))
    for row in ROWS:
        if row.startswith(args.rows):
            print(compare(row, args.rounds, run), flush=True)


if __name__ == "__main__":
    main()
