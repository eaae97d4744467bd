from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from xml.etree import ElementTree

import pytest

from proactorx.cli.bench.picture import lines
from proactorx.cli.bench.rows import ROWS, Result, Sample
from proactorx.cli.bench.svg import chart

Cli = Callable[..., CompletedProcess[str]]

SVG = "{http://www.w3.org/2000/svg}"


@pytest.mark.exhaustive
def test_every_row_on_every_loop(cli: Cli, tmp_path: Path) -> None:
    """It runs, and its file and its chart hold what it shows."""
    done = cli("bench", "--quick", "--json", "bench.json", "--svg", "bench.svg")
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    data = json.loads((tmp_path / "bench.json").read_text())
    assert data["version"] == 1
    assert "asyncio" in data["loops"]
    assert data["loops"].keys().isdisjoint(data["missing"])
    assert {"uvloop", "winloop", "rloop"} <= {*data["loops"], *data["missing"]}
    measured = [row["row"] for row in data["rows"]]
    assert sorted([*measured, *data["skipped"]]) == sorted(row.name for row in ROWS)
    assert set(data["skipped"]) == (set() if shutil.which("openssl") else {"tls-1k"})
    for row in data["rows"]:
        assert row["caption"] in done.stdout
        assert {"proactorx" in data["loops"][loop] for loop in row["loops"]} == {False, True}
        for figures in row["loops"].values():
            assert len(figures["samples"]) == 2
            assert all(one["cpu"] >= 0 and one["rate"] > 0 for one in figures["samples"])
    for name, why in data["missing"].items():
        assert re.search(rf"not measured: .*\b{name}\b", done.stdout), why
    drawn = ElementTree.parse(tmp_path / "bench.svg").getroot()
    assert drawn.tag == f"{SVG}svg"
    words = {text.text for text in drawn.iter(f"{SVG}text")}
    assert {row["caption"] for row in data["rows"]} <= words


def test_what_is_asked_for(cli: Cli, no_rich: str) -> None:
    """Rows and loops by name, without rich and in ASCII; a loop that is not there is said."""
    argv = ("bench", "--quick", "--rows", "timers", "--loops", "asyncio,select,zuvloop")
    done = cli(*argv, PYTHONPATH=no_rich, PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.isascii()
    assert "compared with asyncio" in done.stdout
    assert [line.split()[0] for line in done.stdout.splitlines() if line.endswith("/s")] == [
        "asyncio",
        "select",
    ]
    assert "zuvloop (not installed)" in done.stdout


CRASHES = """
import asyncio, os

class Loop(asyncio.SelectorEventLoop):
    def call_at(self, *args, **options):
        raise RuntimeError("no timers")

    def close(self):
        os._exit(7)

new_event_loop = Loop
"""


def test_a_loop_that_fails_or_crashes_takes_nothing_with_it(
    cli: Cli, tmp_path: Path, environment: Callable[..., dict[str, str]]
) -> None:
    (tmp_path / "peers").mkdir()
    (tmp_path / "peers" / "zuvloop.py").write_text(CRASHES)
    argv = (
        "bench",
        "--quick",
        "--rows",
        "call_soon,timers",
        "--loops",
        "asyncio,zuvloop",
        "--json",
        "bench.json",
    )
    done = cli(*argv, PYTHONPATH=environment(tmp_path / "peers")["PYTHONPATH"])
    assert (done.returncode, done.stderr) == (0, "")
    data = json.loads((tmp_path / "bench.json").read_text())
    assert [list(row["loops"]) for row in data["rows"]] == [["asyncio", "zuvloop"], ["asyncio"]]
    assert "no timers" in data["notes"][0]
    assert any("zuvloop was left out" in note for note in data["notes"])
    assert any("exit code 7" in note for note in data["notes"])


@pytest.mark.parametrize(
    ("words", "code", "complaint"),
    [
        (["--loops", "trio"], 2, "no loop is called 'trio'"),
        (["--rows", "lines"], 2, "no row is called 'lines'"),
        (["--loops", "zuvloop"], 1, "no loop to measure: zuvloop: not installed"),
    ],
)
def test_what_cannot_be_measured(cli: Cli, words: list[str], code: int, complaint: str) -> None:
    done = cli("bench", *words)
    assert (done.returncode, done.stdout) == (code, "")
    assert complaint in done.stderr


def made(**loops: list[float]) -> Result:
    about = dict.fromkeys(
        ("python", "system", "machine", "cores", "date", "rounds", "seconds", "connections"), "?"
    )
    result = Result(about, {name: f"{name} 1" for name in loops})
    result.samples["timers"] = {
        name: [Sample(micros / 2**20, 1e6 / micros) for micros in rounds] for name, rounds in loops.items()
    }
    return result


def test_ratios_are_those_of_the_rounds() -> None:
    """Load that slows a round of both loops changes no ratio."""
    result = made(epoll=[1.0, 10.0, 1.0], asyncio=[4.0, 8.0, 4.0], uvloop=[2.0, 20.0, 2.0])
    assert result.base == "uvloop"
    ratio = result.ratio("timers", "epoll")
    assert ratio is not None
    assert (ratio.median, ratio.noise) == (2.0, 0.0)
    ratio = result.ratio("timers", "asyncio")
    assert ratio is not None
    assert (ratio.low, ratio.median, ratio.high) == (0.5, 0.5, 1.5)
    text = ["".join(piece for piece, _ in line) for line in lines(result)]
    assert any("epoll" in line and "2.00 ± 0%" in line for line in text)
    assert ElementTree.fromstring(chart(result)).tag == f"{SVG}svg"


def test_a_bar_never_leaves_the_chart() -> None:
    drawn = ElementTree.fromstring(chart(made(epoll=[1.0, 1.0], uvloop=[50.0, 50.0])))
    width = float(drawn.attrib["viewBox"].split()[2])
    assert all(
        float(bar.get("x", 0)) + float(bar.attrib["width"]) <= width for bar in drawn.iter(f"{SVG}rect")
    )
    assert "50.00 »" in {text.text for text in drawn.iter(f"{SVG}text")}


def test_a_loop_that_fails_in_a_row_is_in_none_of_its_figures() -> None:
    result = made(epoll=[1.0, 1.0], uvloop=[2.0, 2.0])
    del result.samples["timers"]["uvloop"]
    assert result.ratio("timers", "epoll") is None
    assert ElementTree.fromstring(chart(result)).tag == f"{SVG}svg"
    assert result.as_json()["rows"][0]["loops"]["epoll"]["ratio"] is None
    assert any("0.95 µs" in "".join(piece for piece, _ in line) for line in lines(result))
