"""The same where the kernel's io_uring has no WAITID: a poll on a pidfd tells of each child's end."""

from __future__ import annotations

import asyncio
import errno
from typing import Any

import pytest

from . import test_processes as basics
from . import test_trouble as trouble
from .support import sh, without_wait_child

pytestmark = pytest.mark.ours


@pytest.fixture(autouse=True)
def no_wait_child(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_the_kernel_does_not_know_the_op(
    loop: asyncio.AbstractEventLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    from proactorx.loop.processes import Child, Processes

    real: Any = Child._ended_natively

    class Refused:
        error = errno.EINVAL

    asked: list[int] = []

    def refused(self: Child, op: Any) -> None:
        asked.append(self.pid)
        real(self, Refused())

    monkeypatch.setattr(Processes, "_has_wait_child", True)
    monkeypatch.setattr(Child, "_ended_natively", refused)

    async def main() -> list[int]:
        codes = []
        for _ in range(2):
            process = await sh("exit 3")
            codes.append(await process.wait())
        return codes

    assert loop.run_until_complete(main()) == [3, 3]
    assert len(asked) <= 1  # it is not asked again
