"""A filter that runs a command on its own input, and numbers the lines of the command's output.

Run it in a pipeline (the standard input is a pipe or a terminal, not a file):

    printf 'pear\\napple\\n' | python examples/pipe_filter.py sort
"""

import argparse
import asyncio
import contextlib
import sys
from asyncio.subprocess import PIPE

import proactorx


async def standard_input() -> tuple[asyncio.ReadTransport, asyncio.StreamReader]:
    reader = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    return transport, reader


async def standard_output() -> asyncio.StreamWriter:
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.connect_write_pipe(
        lambda: asyncio.StreamReaderProtocol(asyncio.StreamReader()), sys.stdout
    )
    return asyncio.StreamWriter(transport, protocol, None, loop)


async def feed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(64 * 1024):
            writer.write(data)
            await writer.drain()  # a slow command slows this program, and the one that writes to it
    except ConnectionError:
        pass  # it reads no more, as head(1)
    finally:
        writer.close()


async def number(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    count = 0
    while line := await reader.readline():
        count += 1
        writer.write(b"%6d  %b" % (count, line))
        await writer.drain()


async def main(command: list[str]) -> int:
    process = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    transport, source = await standard_input()
    target = await standard_output()
    feeding = asyncio.create_task(feed(source, process.stdin))
    try:
        await number(process.stdout, target)
    except ConnectionError:
        process.terminate()
        while await process.stdout.read(64 * 1024):
            pass  # the rest is not needed, but its end closes the pipe
    feeding.cancel()
    await asyncio.wait([feeding])
    transport.close()
    target.close()
    with contextlib.suppress(ConnectionError):
        await target.wait_closed()  # everything is written
    return await process.wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--backend", help="io_uring, epoll or select; the best one that runs here unless told"
    )
    parser.add_argument("command", nargs=argparse.REMAINDER, help="the command and its arguments")
    args = parser.parse_args()
    if not args.command:
        parser.error("which command?")
    try:
        code = proactorx.run(main(args.command), backend=args.backend)
    except OSError as exc:
        sys.exit(f"{args.command[0]}: {exc.strerror}")
    sys.exit(code if code >= 0 else 128 - code)  # as a shell reports it
