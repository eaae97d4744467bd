"""What a type checker makes of ``files.open``; see ``test_types.py``.  It is checked and not run."""

from typing import Any, assert_type

import proactorx
from proactorx import files


async def main(mode: str, size: int) -> None:
    text = await files.open("a")
    assert_type(text, files.AsyncTextIOWrapper)
    assert_type(await text.read(), str)
    assert_type(await text.readline(), str)
    assert_type(await text.readlines(), list[str])
    assert_type([line async for line in text], list[str])
    await text.write("text")
    await text.write(b"bytes")  # type: ignore[arg-type]
    await text.writelines([b"bytes"])  # type: ignore[list-item]
    await text.pread(1, 0)  # type: ignore[attr-defined]

    reader = await files.open("a", "rb")
    assert_type(reader, files.AsyncBufferedReader)
    assert_type(await reader.read(10), bytes)
    assert_type(await reader.peek(), bytes)
    assert_type(await reader.readlines(), list[bytes])
    assert_type([line async for line in reader], list[bytes])
    await reader.readinto(b"read-only")  # mypy knows no writable buffers from others
    await reader.write("text")  # type: ignore[arg-type]

    async with files.open("a", "r+b") as both:
        assert_type(both, files.AsyncBufferedReader)
        await both.write(bytearray(b"bytes"))
        assert_type(await both.pread(1, 0), bytes)
    async with files.open("a", "wb", loop=None) as writer:
        assert_type(writer, files.AsyncBufferedIOBase)
        await writer.peek()  # type: ignore[attr-defined]
    async with files.open(1, "ab", 0, closefd=False) as raw:
        assert_type(raw, files.AsyncFileIO)
        assert_type(await raw.write(b"bytes"), int)
    async with files.open("a", "rb", direct=True) as straight:
        assert_type(straight, files.AsyncFileIO)
    async with files.open("a", "rb", size) as some:
        assert_type(await some.read(), bytes)
    async with proactorx.open("a", "w", encoding="utf-8", newline="") as other:
        assert_type(other, files.AsyncTextIOWrapper)
    assert_type(await files.open("a", mode), Any)

    await files.open(1.5)  # type: ignore[call-overload]
