"""Run a command to which the kernel refuses io_uring, as a container's seccomp profile does.

    python tests/support/refuse_io_uring.py [--answer EPERM] [--also 332,437] COMMAND [ARGUMENT...]

A seccomp filter answers the three io_uring system calls with the errno, or kills the process that makes one
(SIGSYS, as the strictest sandboxes do).  So with other calls too, where their numbers are given.  The command
and all its children inherit it and nobody can take it off again.  Needs no privilege: Linux on x86-64,
aarch64 or riscv64.  See seccomp(2).
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import os
import platform
from collections.abc import Sequence

ANSWERS = ("EPERM", "ENOSYS", "ENOMEM", "SIGSYS")
AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7, "riscv64": 0xC00000F3}  # linux/audit.h
IO_URING_SETUP, IO_URING_REGISTER = 425, 427  # io_uring_enter lies between them; the same numbers everywhere

PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 22, 2
PR_SET_NO_NEW_PRIVS = 38

# linux/bpf_common.h
LOAD_WORD, JUMP_EQUAL, JUMP_GREATER, JUMP_GREATER_OR_EQUAL, RETURN = 0x20, 0x15, 0x25, 0x35, 0x06
NUMBER_OFFSET, ARCH_OFFSET = 0, 4  # in struct seccomp_data
ANSWER_ALLOW, ANSWER_ERRNO, ANSWER_KILL = 0x7FFF0000, 0x00050000, 0x80000000


class Instruction(ctypes.Structure):
    """``struct sock_filter``: the jumps count the instructions to skip."""

    _fields_ = (
        ("code", ctypes.c_uint16),
        ("jump_true", ctypes.c_uint8),
        ("jump_false", ctypes.c_uint8),
        ("operand", ctypes.c_uint32),
    )


class Program(ctypes.Structure):
    """``struct sock_fprog``."""

    _fields_ = (("length", ctypes.c_uint16), ("instructions", ctypes.POINTER(Instruction)))


def _prctl(option: int, *arguments: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, *map(ctypes.c_ulong, arguments)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl({option}): {os.strerror(number)}")


def refuse(answer: str = "EPERM", also: Sequence[int] = ()) -> None:
    """From now on the kernel answers so to every io_uring call of this thread, and of what it starts.

    And to calls with the numbers ``also``.
    """
    verdict = ANSWER_KILL if answer == "SIGSYS" else ANSWER_ERRNO | getattr(errno, answer)
    steps = [
        (LOAD_WORD, 0, 0, ARCH_OFFSET),
        (JUMP_EQUAL, 0, 4 + len(also), AUDIT_ARCH[platform.machine()]),
        (LOAD_WORD, 0, 0, NUMBER_OFFSET),
        *((JUMP_EQUAL, len(also) - place + 1, 0, number) for place, number in enumerate(also)),
        (JUMP_GREATER_OR_EQUAL, 0, 2, IO_URING_SETUP),
        (JUMP_GREATER, 1, 0, IO_URING_REGISTER),
        (RETURN, 0, 0, verdict),
        (RETURN, 0, 0, ANSWER_ALLOW),
    ]
    instructions = (Instruction * len(steps))(*(Instruction(*step) for step in steps))
    program = Program(len(steps), instructions)
    _prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)  # what lets an ordinary user install a filter
    _prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.addressof(program))


def numbers(text: str) -> list[int]:
    """What is separated by commas."""
    return [int(number) for number in text.split(",")]


def main() -> None:
    parser = argparse.ArgumentParser(description="Run a command to which the kernel refuses io_uring.")
    parser.add_argument("--answer", choices=ANSWERS, default="EPERM")
    parser.add_argument(
        "--also", type=numbers, default=(), metavar="NUMBER,...", help="other calls to refuse"
    )
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="COMMAND [ARGUMENT...]")
    options = parser.parse_args()
    if not options.command:
        parser.error("a command is needed")
    refuse(options.answer, options.also)
    os.execvp(options.command[0], options.command)


if __name__ == "__main__":
    main()
