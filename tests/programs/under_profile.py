"""Run a command under a seccomp profile of Docker's format: names of calls, actions, no conditions.

python tests/programs/under_profile.py PROFILE COMMAND [ARGUMENT...]
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import platform
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from support import refuse_io_uring as seccomp

#: Where the kernel's headers have the numbers of this architecture.
HEADERS = (
    Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    Path("/usr/include/asm/unistd_64.h"),
    Path("/usr/include/asm-generic/unistd.h"),
)


def numbers() -> dict[str, int]:
    """The system calls of this architecture; empty where there are no headers."""
    for header in HEADERS:
        if header.exists() and ("64.h" in header.name) == (platform.machine() == "x86_64"):
            found = re.findall(r"^#define __NR(?:3264)?_(\w+)\s+(\d+)$", header.read_text(), re.MULTILINE)
            return {name: int(number) for name, number in found}
    return {}


def apply(profile: dict) -> None:
    """Apply the profile to this process and its children."""
    known = numbers()
    answers = {"SCMP_ACT_ALLOW": seccomp.ANSWER_ALLOW, "SCMP_ACT_ERRNO": seccomp.ANSWER_ERRNO | errno.EPERM}
    steps = [(seccomp.LOAD_WORD, 0, 0, seccomp.NUMBER_OFFSET)]
    for rule in profile["syscalls"]:
        for name in rule["names"]:
            steps.append((seccomp.JUMP_EQUAL, 0, 1, known[name]))
            steps.append((seccomp.RETURN, 0, 0, answers[rule["action"]]))
    steps.append((seccomp.RETURN, 0, 0, answers[profile["defaultAction"]]))
    program = seccomp.Program(
        len(steps), (seccomp.Instruction * len(steps))(*(seccomp.Instruction(*step) for step in steps))
    )
    seccomp._prctl(seccomp.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    seccomp._prctl(seccomp.PR_SET_SECCOMP, seccomp.SECCOMP_MODE_FILTER, ctypes.addressof(program))


if __name__ == "__main__":
    apply(json.loads(Path(sys.argv[1]).read_text()))
    os.execvp(sys.argv[2], sys.argv[2:])
