"""Single keys of a terminal, as long as a screen is shown."""

from __future__ import annotations

import os
import select
import sys
import time
from types import TracebackType
from typing import Any

END = "\x04"  # the input has ended


class Keys:
    """Standard input, key by key; where that is no terminal, there are no keys."""

    def __init__(self) -> None:
        self._fd = -1
        self._before: list[Any] = []

    def __enter__(self) -> Keys:
        """Take keys at once, and do not show them."""
        if sys.platform != "win32" and sys.stdin is not None and sys.stdin.isatty():
            import termios
            import tty

            self._fd = sys.stdin.fileno()
            self._before = termios.tcgetattr(self._fd)
            tty.setcbreak(self._fd)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the terminal as it was."""
        if sys.platform != "win32" and self._fd >= 0:
            import termios

            termios.tcsetattr(self._fd, termios.TCSADRAIN, self._before)

    def wait(self, seconds: float) -> str:
        """The next key; empty: there was none in that time."""
        if self._fd < 0:
            time.sleep(seconds)
            return ""
        ready, _, _ = select.select([self._fd], [], [], seconds)
        return (os.read(self._fd, 1).decode("latin-1") or END) if ready else ""
