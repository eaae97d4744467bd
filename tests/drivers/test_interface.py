"""What a driver is: its page and the code say the same, and every kind of op is somebody's to do."""

from __future__ import annotations

import re
import socket
import sys
from pathlib import Path

import pytest

import proactorx
from proactorx.ops import constants
from proactorx.ops.op import Overlapped, table

PACKAGE = Path(proactorx.__file__).parent
PAGE = Path(__file__).parents[2] / "docs" / "pages" / "design" / "drivers.md"
ROW = re.compile(r"^\| `(\w+)` \| (.+?) \| `([\w/]+)`: `(\w+)` \|$", re.MULTILINE)
METHOD = re.compile(r"^    cdef (?:inline )?\w+ (\w+)\(self", re.MULTILINE)
KINDS = table()
#: Done by the kernel only: children (elsewhere the loop waits for a pidfd or in a thread), and TransmitFile.
KERNEL_ONLY = {"wait_child", "transmit"}

needs_sources = pytest.mark.skipif(
    not (PAGE.exists() and (PACKAGE / "drivers" / "driver.pyx").exists()), reason="needs the sources"
)


def _declared() -> tuple[list[str], list[str]]:
    """The methods of the interface, and those that all drivers share, in the order of the declaration."""
    text = (PACKAGE / "drivers" / "driver.pxd").read_text()
    interface, shared = text.partition("    # What a driver does")[2].split("    # What all drivers share")
    return METHOD.findall(interface), METHOD.findall(shared)


def _first_sentence(name: str) -> str:
    source = (PACKAGE / "drivers" / "driver.pyx").read_text()
    found = re.search(
        rf'def (?:\w+ )?{name}\(self.*?"""(.*?)"""|cdef \w+ {name}\(self.*?"""(.*?)"""', source, re.DOTALL
    )
    assert found is not None, name
    return re.match(r".*?\.(?=\s|$)", " ".join((found[1] or found[2]).split()))[0]  # type: ignore[index]


@needs_sources
def test_a_driver_has_at_most_nine_methods_and_the_page_lists_them() -> None:
    interface, _ = _declared()
    assert [name for name, *_ in ROW.findall(PAGE.read_text())] == interface
    assert len(interface) <= 9


@needs_sources
def test_nothing_above_calls_a_driver_but_by_its_interface() -> None:
    interface, shared = _declared()
    queue = {"push", "untrack"}  # what the port does to the driver's queue and list of ops
    called: set[str] = set()
    for path in PACKAGE.rglob("*.pyx"):
        if "drivers" not in path.parts:
            called.update(re.findall(r"\bdriver\.(\w+)\(", path.read_text()))
    assert called <= {*interface, *queue}
    assert called >= set(interface)
    assert queue <= set(shared)


@needs_sources
def test_the_page_says_what_the_code_says() -> None:
    rows = ROW.findall(PAGE.read_text())
    assert {name: what for name, what, *_ in rows} == {name: _first_sentence(name) for name, *_ in rows}


@needs_sources
def test_each_method_is_called_where_the_page_says() -> None:
    for name, _, file, function in ROW.findall(PAGE.read_text()):
        source = "".join((PACKAGE / f"{file}.{kind}").read_text() for kind in ("pyx", "pxd"))
        body = re.search(
            rf"^ *(?:cdef|def) [^\n]*\b{function}\(.*?(?=^(?:    )?(?:cdef|def) |\Z)", source, re.M | re.S
        )
        assert body is not None, f"{file}: {function}"
        assert f".{name}(" in body[0], f"{file}: {function} does not call {name}"


def test_every_kind_has_every_column() -> None:
    assert len({row["name"] for row in KINDS}) == len(KINDS) - 1  # both accepts are one word to users
    for row in KINDS:
        assert row["direction"] in ("in", "out", "neither", "as events")
        assert row["brings"] in ("nothing", "value", "count", "bytes", "fd", "packets")
        assert row["line"] in ("none", "receivers", "senders", "acceptors")
        assert row["on"] in ("socket", "child", "file", "path")
        ways = row["when_ready"] + row["blocking"] + (row["name"] in KERNEL_ONLY)
        assert ways == 1, f"{row['name']}: when ready, a blocking body, or by the kernel only"
        assert row["when_ready"] <= (row["on"] == "socket")
        assert not row["whole"] or (row["direction"] == "out" and row["buffered"] and row["moves"])
        assert row["addressed"] <= row["buffered"]
        assert (row["brings"] == "packets") <= row["multishot"]
        assert (row["line"] != "none") <= row["serial"]
    assert {row["name"] for row in KINDS if row["brings"] == "fd"} == {"accept", "open"}
    assert {row["name"] for row in KINDS if row["line"] == "receivers"} == {"recv", "recv_into", "recvfrom"}


@needs_sources
def test_no_code_asks_which_kind_an_op_is() -> None:
    """What differs between kinds is a column of the table, or a cell of a driver's."""
    compares = re.compile(r"(?<!state)(?<!facts)\.kind *(?:[=!]=|[<>]) *(\w+)|\bkind *(?:[=!]=) *(\w+)")
    names = {name for name in vars(constants) if name.isupper()}
    found = [
        f"{path.name}:{number}: {line.strip()}"
        for path in PACKAGE.rglob("*.pyx")
        for number, line in enumerate(path.read_text().splitlines(), 1)
        for match in compares.finditer(line)
        if (match[1] or match[2]) in names
    ]
    assert found == []


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="io_uring is Linux's")
def test_every_kind_is_done_by_io_uring_somehow() -> None:
    from proactorx.drivers.io_uring.encode import cells

    ways = {
        row["name"]: ("ring" if number in cells() else "", row["when_ready"], row["blocking"])
        for number, row in enumerate(KINDS)
    }
    assert {name for name, way in ways.items() if not any(way)} == {"transmit"}
    assert {name for name, way in ways.items() if way[0]} == {
        *("recv_stream", "wait_child", "read", "write", "fsync", "open", "path_change", "punch")
    }


def test_a_driver_of_readiness_refuses_what_is_not_done_when_ready() -> None:
    left, right = socket.socketpair()
    left.setblocking(False)
    loop = proactorx.new_event_loop("select")
    try:
        for number, row in enumerate(KINDS):
            if row["when_ready"] or number > constants.OPEN:
                continue
            with pytest.raises(NotImplementedError, match="select driver has no"):
                loop._port.start(Overlapped(number, left.fileno(), size=1))
    finally:
        loop.close()
        left.close()
        right.close()
