"""Whether io_uring can run here, at which tier, and if not, why: in words, not in errno.

Tiers:

==== ==================================== =========================================================
U0   Linux 5.11                           one-shot operations
U1   5.13                                 multishot polls
U2   6.1                                  completions only when asked for: ``auto``
U3   6.10 to 6.13                         bundles, minimum time-outs (not used yet)
==== ==================================== =========================================================
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Any

from proactorx.drivers.info import Probe, logger, system

if TYPE_CHECKING:
    from proactorx.drivers.io_uring.driver import UringDriver
    from proactorx.drivers.io_uring.features import RingProbe

#: Architectures on which ``auto`` takes io_uring; on others it must be named.
ARCHITECTURES = ("x86_64", "aarch64", "riscv64")
#: What ``$PROACTORX_URING_DISABLE`` may switch off.
FAMILIES = ("multishot", "streams")

# Names of opcodes by number, io_uring_enter(2).
OPCODES = (  # noqa: SIM905
    "nop readv writev fsync read_fixed write_fixed poll_add poll_remove sync_file_range sendmsg recvmsg "
    "timeout timeout_remove accept async_cancel link_timeout connect fallocate openat close files_update "
    "statx read write fadvise madvise send recv openat2 epoll_ctl splice provide_buffers remove_buffers "
    "tee shutdown renameat unlinkat mkdirat symlinkat linkat msg_ring fsetxattr setxattr fgetxattr "
    "getxattr socket uring_cmd send_zc sendmsg_zc read_multishot waitid futex_wait futex_wake "
    "futex_waitv fixed_fd_install ftruncate bind listen recv_zc epoll_wait readv_fixed writev_fixed pipe "
    "nop128 uring_cmd128"
).split()
_NEEDED = ("poll_add", "async_cancel", "openat", "statx", "read", "write")


def disabled() -> frozenset[str]:
    """The families that ``$PROACTORX_URING_DISABLE`` names.

    Raises:
        ValueError: an unknown word.
    """
    words = frozenset(
        w.strip() for w in os.environ.get("PROACTORX_URING_DISABLE", "").split(",") if w.strip()
    )
    for word in words:
        if word not in FAMILIES:
            raise ValueError(
                f"unknown family {word!r} in PROACTORX_URING_DISABLE: one of {', '.join(FAMILIES)}"
            )
    return words


def _sysctl() -> str:
    try:
        with open("/proc/sys/kernel/io_uring_disabled") as file:
            return file.read().strip()
    except OSError:
        return ""


def explain(error: int) -> str:
    """Why the setup of a ring failed with `error`, in words."""
    name = errno.errorcode.get(error, str(error))
    if error == errno.ENOSYS:
        return (
            f"{name} from setup: this kernel has no io_uring (it came with Linux 5.1), "
            "or a seccomp filter hides it"
        )
    if error in (errno.EPERM, errno.EACCES):
        sysctl = _sysctl()
        if sysctl in ("1", "2"):
            who = "nobody may" if sysctl == "2" else "only CAP_SYS_ADMIN and kernel.io_uring_group may"
            return f"{name} from setup: sysctl kernel.io_uring_disabled={sysctl}, {who} use it"
        return f"{name} from setup; sysctl={sysctl or 'absent'}, so likely seccomp (as in most containers)"
    if error == errno.ENOMEM:
        return f"{name} from setup: no memory for a ring (RLIMIT_MEMLOCK before Linux 5.12, or a full cgroup)"
    return f"{name} from setup: {os.strerror(error)}"


def _tier(found: RingProbe, names: tuple[str, ...]) -> str:
    if "EXT_ARG" not in found["features"] or "NODROP" not in found["features"]:
        return ""
    if any(op not in names for op in _NEEDED):
        return ""
    if not found["multishot_poll"]:
        return "U0"
    if "DEFER_TASKRUN" not in found["setup_flags"]:
        return "U1"
    return "U3" if {"RECVSEND_BUNDLE", "MIN_TIMEOUT"} <= set(found["features"]) else "U2"


def probe() -> Probe:
    """Make a small ring and try what the driver needs.

    Raises:
        OSError: EMFILE or ENFILE, which say nothing about io_uring.
        ValueError: an unknown word in ``$PROACTORX_URING_DISABLE``.
    """
    off = disabled()
    kernel, machine = system()
    try:
        from proactorx.drivers.io_uring.features import probe_ring
    except ImportError as exc:
        return Probe(
            "io_uring", False, f"the compiled driver is missing: {exc}", kernel=kernel, suitable=False
        )
    try:
        found = probe_ring()
    except OSError as exc:
        if exc.errno in (errno.EMFILE, errno.ENFILE):
            raise
        if exc.errno not in (errno.ENOSYS, errno.EPERM, errno.EACCES, errno.ENOMEM, errno.EINVAL):
            logger.warning("proactorx: io_uring_setup failed with errno %s", exc.errno)
        return Probe("io_uring", False, explain(exc.errno or 0), kernel=kernel, suitable=False)
    names = tuple(OPCODES[op] if op < len(OPCODES) else f"op{op}" for op in found["ops"])
    tier = _tier(found, names)
    common: dict[str, Any] = {
        "kernel": kernel,
        "tier": tier,
        "features": found["features"],
        "ops": names,
        "setup_flags": found["setup_flags"],
    }
    if not tier:
        missing = [op for op in _NEEDED if op not in names] or ["EXT_ARG or NODROP (Linux 5.11)"]
        return Probe("io_uring", False, f"this kernel lacks {', '.join(missing)}", suitable=False, **common)
    why = ""
    if tier < "U2":
        why = f"tier {tier}, and auto wants U2 (Linux 6.1)"
    elif machine not in ARCHITECTURES:
        why = f"not on the list of architectures that auto trusts: {machine}"
    elif off:
        why = ""
    return Probe("io_uring", True, why, suitable=not why, **common)


def make_driver(found: Probe, *, shared: bool = False, restricted: bool = False) -> UringDriver:
    """The driver with what this kernel has, less what the environment switches off.

    Args:
        found: what ``probe`` has found.
        shared: for a port that many threads wait on.
        restricted: its ring refuses what the driver does not use.
    """
    from proactorx.drivers.io_uring.driver import UringDriver

    off = disabled()
    multishot = found.tier >= "U1" and "multishot" not in off
    streams = "streams" not in off
    return UringDriver(multishot=multishot, streams=streams, shared=shared, restricted=restricted)
