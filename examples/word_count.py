"""Count the lines, words and bytes of all files below a directory, several at a time, and write a report.

    python examples/word_count.py SOME/DIRECTORY report.txt

The report is replaced atomically: a reader sees the old one or the new one.
"""

import argparse
import asyncio
import os

import proactorx
from proactorx import files

AT_ONCE = 32


async def count(path: str) -> tuple[int, int, int]:
    lines = words = size = 0
    async with files.open(path, "rb") as file:
        async for line in file:
            lines += 1
            words += len(line.split())
            size += len(line)
    return lines, words, size


async def main(folder: str, report: str) -> None:
    free = asyncio.Semaphore(AT_ONCE)
    counts: dict[str, tuple[int, int, int]] = {}

    async def one(path: str) -> None:
        async with free:
            try:
                counts[path] = await count(path)
            except OSError as exc:
                print(f"{path}: {exc.strerror}")  # gone, or not readable

    async with asyncio.TaskGroup() as tasks:
        async for place, _, names in files.walk(folder):
            for name in names:
                tasks.create_task(one(os.path.join(place, name)))
    rows = [(*counts[path], path) for path in sorted(counts)]
    rows.append((*(sum(row[i] for row in rows) for i in range(3)), "total"))
    text = "".join(f"{lines:8} {words:8} {size:10} {path}\n" for lines, words, size, path in rows)
    await files.write_bytes(report, os.fsencode(text), atomic=True, durable=True)
    print(text.splitlines()[-1])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder")
    parser.add_argument("report")
    parser.add_argument(
        "--backend", help="io_uring, epoll or select; the best one that runs here unless told"
    )
    args = parser.parse_args()
    proactorx.run(main(args.folder, args.report), backend=args.backend)
