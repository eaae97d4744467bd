"""The examples of completion ports, which print what the documentation says."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from serving import EXAMPLES, ROOT, environment, running

pytestmark = pytest.mark.programs

PRINTED = {
    "spin_and_dissociate": """\
the first thread comes back:
  after 0.3 s of spinning: queued 1, running 1
  packet 2 went to the first thread
the first thread dissociates:
  after 0.3 s of spinning: queued 1, running 1
  packet 2 went to the second thread
""",
    "one_thread_thousand_files": """\
1000 files read, 1000 of them right, by 1 thread of this program
""",
    "post_your_own": """\
jobs: 10, squares [0, 1, 4, 9, 16, 25, 36, 49, 64, 81]
socket: hello
ends: 3
""",
}


@pytest.mark.parametrize("name", PRINTED)
def test_what_it_prints(name: str, driver_name: str) -> None:
    with running(
        sys.executable, "-W", "error", EXAMPLES / f"{name}.py", env=environment(driver_name)
    ) as program:
        assert program.wait() == 0
        assert program.printed == PRINTED[name]


@pytest.mark.parametrize("name", PRINTED)
def test_the_documentation_shows_it(name: str) -> None:
    pages = ROOT / "docs" / "pages"
    if not pages.exists():
        pytest.skip("the documentation is not here")
    assert PRINTED[name] in Path(pages / "no-thread.md").read_text()
