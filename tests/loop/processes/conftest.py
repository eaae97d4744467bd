"""What every test of this room must leave behind: no descriptor, no child, no handler of SIGCHLD,
no silent error.
"""

from __future__ import annotations

import gc
import signal
from collections.abc import Iterator

import pytest
from transports.conftest import no_descriptor_left, no_silent_error

from .support import children

__all__ = ["no_descriptor_left", "no_silent_error"]


@pytest.fixture(autouse=True)
def no_child_left() -> Iterator[None]:
    before = children()
    yield
    if children() - before:
        gc.collect()
    assert children() - before == set()
    if hasattr(signal, "SIGCHLD"):
        assert signal.getsignal(signal.SIGCHLD) is signal.SIG_DFL
