"""The same where the kernel has neither WAITID nor a pidfd: a thread waits for each child."""

from __future__ import annotations

import errno
import os

import pytest

from . import test_processes as basics
from . import test_trouble as trouble
from .support import without_wait_child

pytestmark = pytest.mark.ours


@pytest.fixture(autouse=True)
def no_pidfd(monkeypatch: pytest.MonkeyPatch) -> None:
    def pidfd_open(pid: int, flags: int = 0) -> int:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(os, "pidfd_open", pidfd_open, raising=False)
    without_wait_child(monkeypatch)


test_input_and_output = basics.test_input_and_output
test_without_pipes = basics.test_without_pipes
test_signals_that_end_it = basics.test_signals_that_end_it
test_several_wait = basics.test_several_wait
test_waiting_is_cancelled = basics.test_waiting_is_cancelled
test_a_transport_is_closed_twice = basics.test_a_transport_is_closed_twice
test_many_at_once = basics.test_many_at_once
test_starting_is_cancelled = trouble.test_starting_is_cancelled
test_in_a_loop_of_another_thread = trouble.test_in_a_loop_of_another_thread
