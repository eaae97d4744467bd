"""The same operations on a file of ours, of aiofiles and of the built-in ``open``:
the same results and bytes.
"""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import pytest

from .conftest import outcome

TEXT = "first\nsécond\r\nthird\rfourth €\n" + "x" * 9000 + "\n" + "ü" * 70000 + "\nlast without an end"
WORDS = ["a", "é\n", "line\r\n", "€" * 3000, "x" * 20000 + "\n", "", "\r"]
PIECES = [b"a", b"\n", b"line\r\n", bytes(range(256)) * 40, b"y" * 70000, b""]

Step = tuple[str, tuple[Any, ...]]


def _sync(file: Any, step: Step) -> Any:
    name, args = step
    try:
        if name == "readinto":
            buffer = bytearray(args[0])
            return file.readinto(buffer), bytes(buffer)
        return getattr(file, name)(*args)
    except Exception as exc:
        return type(exc), str(exc)


async def test_a_path_object_is_a_name(aio: Any, tmp_path: Path) -> None:
    for mode in ("w", "r", "rb", "a", "r+"):
        async with aio.open(tmp_path / "f", mode) as handle:
            assert handle.name == str(tmp_path / "f")
    for mode in ("w", "r", "x"):
        with pytest.raises(FileNotFoundError) as caught:
            await aio.open(tmp_path / "nothing" / "f", mode)
        assert caught.value.filename == str(tmp_path / "nothing" / "f")
    with pytest.raises(TypeError, match="not float"):
        await aio.open(1.5, "w")


async def _async(file: Any, step: Step) -> Any:
    name, args = step
    if name == "readinto":
        buffer = bytearray(args[0])
        result = await outcome(file.readinto(buffer))
        return (result, bytes(buffer)) if not isinstance(result, tuple) else result
    return await outcome(getattr(file, name)(*args))


def _steps(rng: random.Random, mode: str, buffering: int, count: int) -> list[Step]:
    text = "b" not in mode
    steps: list[Step] = []
    sizes = (0, 1, 7, 100, 5000, 9000, 70000, 200000)
    for _ in range(count):
        kind = rng.randrange(13)
        if kind < 3:
            steps.append(("read", (rng.choice(sizes),)))
        elif kind < 6:
            steps.append(("readline", rng.choice([(), (), (rng.choice(sizes),)])))
        elif kind == 6:
            steps.append(rng.choice([("readlines", ()), ("readlines", (100,)), ("read", ())]))
            if text:
                # iterating confuses tell(): the position is the buffer's from then on
                steps.append(("seek", (0,)))
        elif kind == 7 and not text:
            steps.append(("readinto", (rng.choice(sizes),)))
        elif kind == 8 and not text and buffering:
            steps.append(
                rng.choice([("read1", ()), ("read1", (100,)), ("peek", ())]) if "r" in mode else ("flush", ())
            )
            steps.append(("seek", (rng.choice(sizes),)))
        elif kind == 9:
            steps.append(("seek", (0,)) if text or rng.random() < 0.5 else ("seek", (rng.choice(sizes),)))
        elif kind == 10:
            steps.append(rng.choice([("tell", ()), ("seek", (0, 2)), ("flush", ())]))
        elif kind == 11:
            steps.append(("write", (rng.choice(WORDS if text else PIECES),)))
        elif rng.random() < 0.3:
            steps.append(("truncate", ()))
        else:
            # (Reading text behind what was written needs a seek in between.)
            steps.append(("writelines", ([rng.choice(WORDS if text else PIECES) for _ in range(3)],)))
    if text and "+" in mode:
        steps = [
            each
            for step in steps
            for each in ((step, ("seek", (0, 2))) if step[0].startswith("w") else (step,))
        ]
    return steps


MODES = [
    ("r", -1, {"encoding": "utf-8"}),
    ("r", -1, {"encoding": "utf-8", "newline": ""}),
    ("r", -1, {"encoding": "utf-8", "newline": "\n"}),
    ("r", -1, {"encoding": "utf-8", "newline": "\r"}),
    ("r", -1, {"encoding": "utf-8", "newline": "\r\n"}),
    ("r", 100, {"encoding": "latin-1"}),
    ("r", -1, {"encoding": "utf-16", "errors": "replace"}),
    ("r", -1, {"encoding": "ascii", "errors": "ignore"}),
    ("r", -1, {"encoding": "ascii"}),
    ("r+", -1, {"encoding": "utf-8"}),
    ("w+", -1, {"encoding": "utf-8", "newline": "\r\n"}),
    ("a+", 1, {"encoding": "utf-8"}),
    ("w", -1, {"encoding": "utf-16"}),
    ("rb", -1, {}),
    ("rb", 0, {}),
    ("rb", 100, {}),
    ("r+b", -1, {}),
    ("r+b", 0, {}),
    ("w+b", 50, {}),
    ("wb", -1, {}),
    ("wb", 0, {}),
    ("ab", -1, {}),
    ("a+b", 0, {}),
]


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.exhaustive)])
@pytest.mark.parametrize(("mode", "buffering", "options"), MODES, ids=lambda value: str(value))
async def test_any_sequence(
    aio: Any, tmp_path: Path, mode: str, buffering: int, options: dict[str, Any], seed: int
) -> None:
    rng = random.Random(f"{mode} {buffering} {options} {seed}")
    encoded = TEXT.encode(
        options.get("encoding", "utf-8") if options.get("encoding") != "ascii" else "utf-8", "replace"
    )
    plain, other = tmp_path / "plain", tmp_path / "other"
    plain.write_bytes(encoded)
    other.write_bytes(encoded)
    steps = _steps(rng, mode, buffering, 40)
    with open(plain, mode, buffering, **options) as file:
        expected = [_sync(file, step) for step in steps]
        found = []
        async with aio.open(other, mode, buffering, **options) as handle:
            for step in steps:
                found.append(await _async(handle, step))
            assert handle.mode == file.mode
    for step, one, two in zip(steps, expected, found, strict=True):
        if isinstance(one, tuple) and one[0] is UnicodeDecodeError:
            assert two[0] is UnicodeDecodeError
            return  # how much a decoder has swallowed by then is nobody's promise
        if isinstance(one, tuple) and one[0] is OSError and "next()" in one[1]:
            continue  # telling is off from the first next() until a flush, and others may flush more often
        if step[0] in ("read1", "peek") and isinstance(one, bytes):
            assert (two[:1], two[: len(one)]) == (one[:1], one[: len(two)]), step  # as much as is there
            continue
        assert two == one, step
    assert other.read_bytes() == plain.read_bytes()
    assert handle.closed


@pytest.mark.parametrize("newline", [None, "", "\n", "\r", "\r\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16-le", "cp1252", "shift_jis"])
async def test_iteration(aio: Any, tmp_path: Path, newline: str | None, encoding: str) -> None:
    path = tmp_path / "lines"
    path.write_bytes(
        "".join(f"{i}{'x' * (i % 300)}{end}" for i in range(500) for end in "\n\r")[:-3].encode(encoding)
    )
    with open(path, newline=newline, encoding=encoding) as file:
        expected = list(file)
    async with aio.open(path, newline=newline, encoding=encoding) as handle:
        assert [line async for line in handle] == expected
        assert await handle.readline() == ""
    async with aio.open(path, "rb") as handle:
        assert b"".join([line async for line in handle]) == path.read_bytes()


async def test_tell_and_seek_in_the_middle_of_text(aio: Any, lines: Path) -> None:
    async with aio.open(lines, encoding="utf-8") as handle:
        places = []
        for _ in range(60):
            place = await handle.tell()
            places.append((place, await handle.read(777), await handle.readline()))
        for place, piece, line in reversed(places):
            assert await handle.seek(place) == place
            assert (await handle.read(777), await handle.readline()) == (piece, line)


async def test_what_another_writer_appends_is_read_after_the_end(aio: Any, tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"one\n")
    for mode in ("r", "rb"):
        with open(path, "ab") as writer:
            async with aio.open(path, mode) as handle:
                empty = "" if mode == "r" else b""
                while await handle.readline():
                    continue
                assert await handle.read() == empty
                writer.write(b"more\n")
                writer.flush()
                assert await handle.readline() == ("more\n" if mode == "r" else b"more\n")
                assert await handle.readline() == empty


async def test_descriptors_and_openers(aio: Any, path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    async with aio.open(fd, "rb", closefd=False) as handle:
        assert await handle.read(3) == b"\0\1\2"
        assert handle.name == handle.fileno() == fd
    os.lseek(fd, 10, os.SEEK_SET)
    async with aio.open(fd, "rb") as handle:
        assert await handle.read(2) == b"\x0a\x0b"
    with pytest.raises(OSError):
        os.fstat(fd)
    seen = []

    def opener(name: str, flags: int) -> int:
        seen.append(name)
        return os.open(path, flags)

    async with aio.open("another name", "r+b", opener=opener) as handle:
        assert len(await handle.read()) == 256
        assert handle.name == "another name"
    assert seen == ["another name"]
    with pytest.raises(ValueError, match="closefd"):
        await aio.open(path, "rb", closefd=False)
    with pytest.raises(ValueError, match="invalid mode"):
        await aio.open(path, "q")
    async with aio.open(path, "w", 1) as handle:
        await handle.write("a line\nand")
        assert path.read_bytes().startswith(b"a line")


async def test_a_closed_file(aio: Any, path: Path) -> None:
    for mode, buffering in (("r", -1), ("rb", -1), ("rb", 0), ("wb", -1), ("wb", 0), ("r+", -1)):
        file = open(path, mode, buffering)
        file.close()
        handle = await aio.open(path, mode, buffering)
        await handle.close()
        await handle.close()
        assert handle.closed
        for step in (
            ("read", ()),
            ("readline", ()),
            ("write", ("x" if "b" not in mode else b"x",)),
            ("tell", ()),
        ):
            assert await _async(handle, step) == _sync(file, step)


async def test_a_file_of_the_wrong_direction(aio: Any, path: Path) -> None:
    for mode, buffering in (("r", -1), ("rb", -1), ("rb", 0), ("wb", -1), ("wb", 0), ("w", -1)):
        with open(path, mode, buffering) as file:
            async with aio.open(path, mode, buffering) as handle:
                assert await handle.writable() == file.writable()
                assert await handle.seekable()
                assert not await handle.isatty()
                for step in (
                    ("read", (1,)),
                    ("readline", ()),
                    ("write", ("x" if "b" not in mode else b"x",)),
                ):
                    assert await _async(handle, step) == _sync(file, step)
