"""The write buffer: its size, its limits, and telling the protocol to wait."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from .support import BIG, MIB, BufferedRecorder, Recorder, collect_errors, linked, turns

each_kind = pytest.mark.parametrize("kind", ["tcp", "accepted", "unix"])


async def test_default_limits() -> None:
    async with linked("tcp") as link:
        assert link.transport.get_write_buffer_limits() == (16 * 1024, 64 * 1024)
        assert link.transport.get_write_buffer_size() == 0


@pytest.mark.parametrize(
    ("given", "low", "high"),
    [
        ({}, 16 * 1024, 64 * 1024),
        ({"high": 1000}, 250, 1000),
        ({"low": 1000}, 1000, 4000),
        ({"high": 1000, "low": 1000}, 1000, 1000),
        ({"high": 10, "low": 0}, 0, 10),
        ({"high": 0}, 0, 0),
    ],
    ids=["default", "high", "low", "equal", "low-0", "high-0"],
)
async def test_limits_that_are_given(given: dict[str, int], low: int, high: int) -> None:
    async with linked("tcp") as link:
        link.transport.set_write_buffer_limits(high=5, low=5)
        link.transport.set_write_buffer_limits(**given)
        assert link.transport.get_write_buffer_limits() == (low, high)


@pytest.mark.parametrize(
    "given", [{"high": 1, "low": 2}, {"high": -1}, {"low": -1}, {"high": 1, "low": -1}], ids=str
)
async def test_limits_that_make_no_sense(given: dict[str, int]) -> None:
    async with linked("tcp") as link:
        with pytest.raises(ValueError):
            link.transport.set_write_buffer_limits(**given)
        assert link.transport.get_write_buffer_limits() == (16 * 1024, 64 * 1024)


@each_kind
@pytest.mark.parametrize("make", [Recorder, BufferedRecorder])
async def test_a_stalled_peer_pauses_once_and_resumes_once(kind: str, make: Any) -> None:
    async with linked(kind, make()) as link:
        link.transport.write(b"s" * BIG)
        assert link.protocol.events == ["connection_made", "pause_writing"]
        assert 64 * 1024 < link.transport.get_write_buffer_size() <= BIG
        for _ in range(10):
            link.transport.write(b"more")
        assert link.protocol.events == ["connection_made", "pause_writing"]
        assert len(await link.from_peer(BIG + 40)) == BIG + 40
        await link.protocol.until_event("resume_writing")
        assert link.protocol.events == ["connection_made", "pause_writing", "resume_writing"]
        assert link.transport.get_write_buffer_size() <= 16 * 1024


async def test_pauses_and_resumes_alternate() -> None:
    async with linked("tcp") as link:
        for i in range(1, 4):
            link.transport.write(b"s" * 2 * MIB)
            await link.from_peer(2 * MIB)
            await link.protocol.until(lambda i=i: link.protocol.events.count("resume_writing") == i)
        assert link.protocol.events == ["connection_made", *["pause_writing", "resume_writing"] * 3]


async def test_a_buffer_below_the_limit_pauses_nothing() -> None:
    async with linked("tcp") as link:
        link.transport.set_write_buffer_limits(high=3 * BIG)
        link.transport.write(b"s" * BIG)
        assert link.transport.get_write_buffer_size() > 0
        assert len(await link.from_peer(BIG)) == BIG
        assert link.protocol.events == ["connection_made"]


async def test_the_buffer_size_falls_to_nothing() -> None:
    def resumed(protocol: Recorder) -> None:
        sizes.append(protocol.transport.get_write_buffer_size())

    sizes: list[int] = []
    async with linked("tcp", Recorder(resume_writing=resumed)) as link:
        link.transport.set_write_buffer_limits(high=0)
        link.transport.write(b"s" * BIG)
        first = link.transport.get_write_buffer_size()
        assert first > 0
        await link.from_peer(MIB)
        await link.from_peer(BIG - MIB)
        await link.protocol.until_event("resume_writing")
        assert sizes == [0]


@pytest.mark.parametrize("where", ["task", "callback"])
async def test_small_writes_with_a_high_limit_of_zero(where: str) -> None:
    """What is sent in full pauses nobody."""

    def write(protocol: Recorder, *_: Any) -> None:
        for _ in range(3):
            protocol.transport.write(b"s")
        protocol.transport.writelines([b"t", b"u"])

    async with linked("tcp", Recorder(data_received=write)) as link:
        link.transport.set_write_buffer_limits(high=0)
        if where == "task":
            write(link.protocol)
        else:
            await link.to_peer_end(b"x")
        assert await link.from_peer(5) == b"ssstu"
        assert "pause_writing" not in link.protocol.events


async def test_writing_inside_resume_writing() -> None:
    """A protocol that writes as soon as it may: each byte once, in order, no recursion without end."""

    def again(protocol: Recorder) -> None:
        if left:
            protocol.transport.write(left.pop(0))

    left = [bytes([i]) * MIB for i in range(1, 6)]
    expected = b"\0" * MIB + b"".join(left)
    async with linked("tcp", Recorder(resume_writing=again)) as link:
        link.transport.write(b"\0" * MIB)
        assert await link.from_peer(6 * MIB) == expected
        await link.protocol.until(lambda: link.protocol.events.count("resume_writing") == 6)


async def test_writing_inside_pause_writing() -> None:
    def once_more(protocol: Recorder) -> None:
        protocol.transport.write(b"!")

    async with linked("tcp", Recorder(pause_writing=once_more)) as link:
        link.transport.write(b"s" * BIG)
        assert await link.from_peer(BIG + 1) == b"s" * BIG + b"!"
        assert link.protocol.events.count("pause_writing") == 1


@pytest.mark.parametrize("name", ["pause_writing", "resume_writing"])
async def test_a_protocol_that_raises_is_reported_and_the_data_still_goes(name: str) -> None:
    def fail(_protocol: Recorder) -> None:
        raise ZeroDivisionError(name)

    errors = collect_errors()
    async with linked("tcp", Recorder(**{name: fail})) as link:
        link.transport.write(b"s" * BIG)
        assert len(await link.from_peer(BIG)) == BIG
        await link.protocol.until_event("resume_writing")
        await turns()
        assert [type(error["exception"]) for error in errors] == [ZeroDivisionError]
        assert errors[0]["protocol"] is link.protocol
        assert not link.transport.is_closing()


async def test_a_stalled_connection_does_not_stall_another() -> None:
    async with linked("tcp") as stalled, linked("tcp") as other:
        stalled.transport.write(b"s" * BIG)
        for i in range(50):
            other.transport.write(b"%03d" % i)
            assert await other.from_peer(3) == b"%03d" % i
        assert "resume_writing" not in stalled.protocol.events


async def test_nothing_is_told_after_the_connection_is_lost() -> None:
    async with linked("tcp") as link:
        link.transport.write(b"s" * BIG)
        link.transport.abort()
        await link.protocol.until_lost()
        await turns(5)
        assert link.protocol.events == ["connection_made", "pause_writing", "connection_lost"]


async def test_reading_goes_on_while_writing_is_stalled() -> None:
    async with linked("tcp") as link:
        link.transport.write(b"s" * BIG)
        await link.to_peer_end(b"r" * MIB)
        assert await link.protocol.until_received(MIB) == b"r" * MIB


async def test_both_directions_stalled_come_to_life() -> None:
    async with linked("tcp") as link:
        link.transport.pause_reading()
        link.transport.write(b"w" * BIG)
        sending = asyncio.create_task(link.to_peer_end(b"r" * BIG))
        await asyncio.sleep(0.02)
        link.transport.resume_reading()
        reading = asyncio.create_task(link.from_peer(BIG))
        assert await link.protocol.until_received(BIG) == b"r" * BIG
        assert len(await reading) == BIG
        await sending
