"""What ``support/thread_sanitizer.py`` takes for a race of this package's."""

from __future__ import annotations

from support.thread_sanitizer import reports

RACE = """==================
WARNING: ThreadSanitizer: data race (pid=1)
  Read of size 8 at 0x7f by thread T8:
    #0 {reads} {place} (x.so+0x1)
    #1 PyObject_Vectorcall Objects/call.c:327 (python+0x1)

  Previous write of size 8 at 0x7f by main thread:
    #0 task_wakeup Modules/_asynciomodule.c:3195 (_asyncio.so+0x1)
    #1 PyObject_Vectorcall Objects/call.c:327 (python+0x1)
    #2 PyObject_Vectorcall Objects/call.c:327 (python+0x1)
    #3 PyObject_Vectorcall Objects/call.c:327 (python+0x1)
    #4 turn proactorx/loop/core.c:9 (core.so+0x1)

  Thread T8 (tid=2, running) created by main thread at:
    #0 start proactorx/pool/core.c:1 (core.so+0x1)

SUMMARY: ThreadSanitizer: data race
==================
"""
OURS = RACE.format(reads="call_soon_threadsafe", place="proactorx/loop/core.c:7259")
OTHERS = RACE.format(reads="future_get_result", place="Modules/_asynciomodule.c:601")


def test_a_race_in_our_code_is_told_once() -> None:
    (found,) = reports(OURS + OTHERS + OURS)
    assert "core.c:7259" in found


def test_a_race_of_others_that_our_code_called_is_not() -> None:
    assert reports(OTHERS) == []
