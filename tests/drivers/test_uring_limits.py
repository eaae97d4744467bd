"""The limits of the ring: that they can be forced small,
and that running into them is counted and survived.
"""

from __future__ import annotations

import contextlib
import ctypes
import os

import pytest

from proactorx import drivers
from proactorx.port.loop_port import LoopPort

pytestmark = pytest.mark.skipif(not drivers.probe("io_uring").available, reason="io_uring does not run here")


def _driver(**limits: int) -> object:
    from proactorx.drivers.io_uring.driver import UringDriver

    return UringDriver(**limits)


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({}, {"entries": 256, "completions": 1024}),
        ({"entries": 8}, {"entries": 8, "completions": 32}),
        ({"entries": 4, "cq_entries": 8}, {"entries": 4, "completions": 8}),
        ({"entries": 5}, {"entries": 8, "completions": 32}),
        ({"multishot": False}, {"entries": 256}),
        ({"entries": 1 << 20}, {"entries": 32768}),
    ],
    ids=str,
)
def test_sizes(limits: dict[str, int], expected: dict[str, int]) -> None:
    driver = _driver(**limits)
    port = LoopPort(driver)
    assert driver.describe() == {}  # nothing was opened yet
    port.run(0.001)
    found = driver.describe()
    assert {key: found[key] for key in expected} == expected
    port.close()
    assert driver.describe() == {}


def test_a_driver_is_opened_at_its_first_use_and_not_before() -> None:
    driver = _driver()
    port = LoopPort(driver)
    port.run(0)
    assert driver.describe() == {}
    port.attach_thread()
    port.detach_thread()
    assert driver.describe() == {}
    port.close()


@pytest.mark.parametrize("limits", [{"entries": 0}, {"cq_entries": 1}])
def test_limits_that_the_kernel_refuses_are_an_error_of_the_open(limits: dict[str, int]) -> None:
    port = LoopPort(_driver(**limits))
    with pytest.raises(OSError, match="Invalid argument"):
        port.run(0.001)
    port.close()


def test_the_kernels_own_threads_are_bounded() -> None:
    """IORING_REGISTER_IOWQ_MAX_WORKERS, io_uring_register(2), told 0 twice answers with the limits."""

    def rings() -> set[int]:
        found = set()
        for name in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                if os.readlink(f"/proc/self/fd/{name}") == "anon_inode:[io_uring]":
                    found.add(int(name))
        return found

    before = rings()
    port = LoopPort(_driver())
    port.run(0.001)
    (fd,) = rings() - before
    limits = (ctypes.c_uint32 * 2)()
    if ctypes.CDLL(None).syscall(427, fd, 19, limits, 2) < 0:
        pytest.skip("the kernel has no limit for them before Linux 5.15")
    assert list(limits) == [32, 32]
    port.close()
