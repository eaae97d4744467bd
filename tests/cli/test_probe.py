from __future__ import annotations

import json
import sys
from collections.abc import Callable
from subprocess import CompletedProcess
from typing import Any

import pytest

import proactorx

Cli = Callable[..., CompletedProcess[str]]

Refused = Callable[[str], tuple[str, ...]]

DRIVER_KEYS = {"name", "available", "suitable", "reason", "tier", "kernel", "features", "setup_flags", "ops"}


def report(done: CompletedProcess[str]) -> dict[str, Any]:
    found = json.loads(done.stdout)
    assert isinstance(found, dict)
    return found


def drivers(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {driver["name"]: driver for driver in found["drivers"]}


def test_json_says_what_can_run_and_why_the_rest_cannot(cli: Cli) -> None:
    done = cli("probe", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    found = report(done)
    assert found["proactorx"] == proactorx.__version__
    assert (
        found["python"] == ".".join(map(str, sys.version_info[:3]))
        or sys.version_info.releaselevel != "final"
    )
    assert {"implementation", "system", "kernel", "machine"} <= found.keys()
    assert len(drivers(found)) == len(found["drivers"]) >= (2 if sys.platform == "win32" else 3)
    for driver in found["drivers"]:
        assert driver.keys() == DRIVER_KEYS
        assert (driver["available"] and driver["suitable"]) is (driver["reason"] == "")
        assert all(
            isinstance(word, str) for key in ("features", "setup_flags", "ops") for word in driver[key]
        )
    assert drivers(found)["select"]["available"]


def test_it_tells_of_tls(cli: Cli) -> None:
    found = report(cli("probe", "--json", PROACTORX_TLS="buffers"))
    assert "PROACTORX_TLS=buffers" in found["tls"] or found["tls"].startswith("the ssl module (")
    assert found["ktls"].startswith("no (")
    assert "kernel TLS" in cli("probe").stdout


def test_json_tells_the_choice(cli: Cli) -> None:
    found = report(cli("probe", "--json"))
    assert found["error"] == ""
    assert found["chosen"].keys() == {"name", "reason", "tier", "streams"}
    assert drivers(found)[found["chosen"]["name"]]["available"]


def test_the_choice_follows_the_environment(cli: Cli, driver_name: str, running: str) -> None:
    done = cli("probe", "--json", PROACTORX_BACKEND=driver_name)
    assert done.returncode == 0
    assert report(done)["chosen"]["name"] == running


@pytest.mark.parametrize("word", ["abacus", "iocp"])
def test_a_choice_that_cannot_start_is_the_exit_code(cli: Cli, word: str) -> None:
    if sys.platform == "win32":
        pytest.skip("iocp starts here")
    done = cli("probe", "--json", PROACTORX_BACKEND=word)
    found = report(done)
    assert (done.returncode, found["chosen"]) == (1, None)
    assert word in found["error"]
    assert drivers(found)["select"]["available"]  # the rest is told all the same
    done = cli("probe", PROACTORX_BACKEND=word)
    assert done.returncode == 1
    assert word in done.stdout


@pytest.mark.parametrize("answer", ["EPERM", "ENOSYS"])
def test_where_io_uring_is_refused_it_says_why(cli: Cli, refused: Refused, answer: str) -> None:
    done = cli("probe", "--json", python=refused(answer))
    found = report(done)
    assert (done.returncode, found["chosen"]["name"]) == (0, "epoll")
    assert answer in drivers(found)["io_uring"]["reason"]
    assert answer in found["chosen"]["reason"]


def test_where_io_uring_is_deadly_it_lives_to_tell(cli: Cli, refused: Refused) -> None:
    """Some sandboxes kill the process that tries: that is found out without dying of it."""
    done = cli("probe", "--json", python=refused("SIGSYS"))
    found = report(done)
    assert (done.returncode, found["chosen"]) == (1, None)
    assert "SIGSYS" in drivers(found)["io_uring"]["reason"]
    assert "PROACTORX_BACKEND=epoll" in found["error"]
    assert drivers(found)["epoll"]["available"]
    done = cli("probe", "--json", python=refused("SIGSYS"), PROACTORX_BACKEND="epoll")
    assert (done.returncode, report(done)["chosen"]["name"]) == (0, "epoll")


def test_tables(cli: Cli) -> None:
    done = cli("probe")
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    for word in ("chosen", "runs here", "why not", "select", "yes"):
        assert word in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_without_rich_it_is_plain_text(cli: Cli, no_rich: str) -> None:
    done = cli("probe", PYTHONPATH=no_rich)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.isascii()
    assert "\nselect: can run here\n" in done.stdout
    assert f"proactorx: {proactorx.__version__}\n" in done.stdout
    assert report(cli("probe", "--json", PYTHONPATH=no_rich))["chosen"]


@pytest.mark.skipif(sys.platform == "win32", reason="no sh")
def test_a_reader_that_has_seen_enough(cli: Cli) -> None:
    done = cli("probe", "--json", python=("sh", "-c", '"$0" "$@" | head -n 1', sys.executable))
    assert (done.stdout, done.stderr) == ("{\n", "")
