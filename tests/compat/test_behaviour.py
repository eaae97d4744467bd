"""The page that compares the loops says what they do."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

if sys.platform != "linux":
    pytest.skip("the table is of Linux", allow_module_level=True)

from behaviour import TABLE, asked
from rows import ROWS
from tables import LOOPS

if not TABLE.data.exists():
    pytest.skip("the docs are not here", allow_module_level=True)


@pytest.fixture(scope="module")
def data() -> Any:
    return TABLE.read()


def test_the_page_has_a_row_for_each_question(data: Any) -> None:
    assert len(ROWS) >= 60
    assert [(row["topic"], row["question"]) for row in data["rows"]] == list(ROWS)
    assert TABLE.page.read_text() == TABLE.text()


def test_no_row_of_ours_hangs_or_crashes(data: Any) -> None:
    ours = [row["proactorx"] for row in data["rows"]]
    assert [answer for answer in ours if answer == "hangs" or answer.startswith("ends the process")] == []


@pytest.mark.exhaustive
@pytest.mark.programs
@pytest.mark.parametrize("name", LOOPS)
def test_each_loop_still_answers_so(data: Any, name: str) -> None:
    """What differs is asked again, up to twice: the machine may be busy."""
    if platform.python_version() != data["python"]:
        pytest.skip(f"the data are of CPython {data['python']}")
    if name == "uvloop":
        pytest.importorskip("uvloop")
        if version("uvloop") != data["uvloop"]:
            pytest.skip(f"the data are of uvloop {data['uvloop']}")
    pytest.importorskip("nest_asyncio")
    expected = {f"{row['topic']}: {row['question']}": row[name] for row in data["rows"]}
    wrong = dict(expected)
    for _ in range(3):
        found = asked(name)
        wrong = {question: found[question] for question in wrong if found[question] != expected[question]}
        if not wrong:
            break
    assert wrong == {}


ENDS = """
import json, os, time
import behaviour
from tables import maker

behaviour.LIMIT = 0.5
make = maker("asyncio")
rows = [lambda make: os._exit(3), lambda make: time.sleep(20), lambda make: 1 // 0, lambda make: "words"]
print(json.dumps([behaviour.ask(row, make) for row in rows]))
"""


def test_a_row_that_crashes_or_hangs_is_an_answer() -> None:
    """In a new process: this one may have threads, beside which Python warns of ``fork``."""
    argv = [sys.executable, "-W", "error", "-c", ENDS]
    done = subprocess.run(argv, cwd=Path(__file__).parent, stdout=subprocess.PIPE, check=True, timeout=40)
    assert json.loads(done.stdout) == ["ends the process with 3", "hangs", "ZeroDivisionError", "words"]
