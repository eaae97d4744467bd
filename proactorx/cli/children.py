"""Processes that a command starts: they read commands as lines of JSON, and answer so."""

from __future__ import annotations

import contextlib
import json
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from typing import Any

from proactorx.cli.errors import CliError

START_TIME = 20.0  # seconds for a child's first answer
ANSWER_TIME = 60.0  # seconds for an answer, in addition to the time of the load
FINISH_TIME = 5.0  # seconds for a child's end


class Child:
    """A process that reads commands as JSON lines on standard input and answers with JSON lines.

    Args:
        owner: the command that starts it, for messages.
        module: its module in this package.
    """

    def __init__(self, owner: str, module: str, *args: str) -> None:
        self.name: str = f"{owner}'s {module}"
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115, closed in stop()
        self._process = subprocess.Popen(
            [sys.executable, "-m", f"proactorx.cli.{module}", *args],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            start_new_session=True,  # Ctrl-C is ours; the end of its standard input ends the child
        )
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put("")

    def ask(self, **message: Any) -> None:
        """Send one command to the child; ``answer`` reads its reply."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # answer() tells why
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()

    def answer(self, timeout: float = ANSWER_TIME) -> dict[str, Any]:
        """The child's next message.

        Raises:
            CliError: none within `timeout` seconds, the child has ended, or the message is an error.
        """
        try:
            line = self._lines.get(timeout=timeout)
        except queue.Empty:
            raise CliError(f"the {self.name} did not answer within {timeout:.0f} s") from None
        if not line:
            raise CliError(f"the {self.name} ended early:\n{self._last_words()}")
        message: dict[str, Any] = json.loads(line)
        if "error" in message:
            raise CliError(message["error"], 2 if message.get("usage") else 1)
        return message

    def _last_words(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1)
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace").replace("\r\n", "\n").strip()
        if len(said) > 2000:
            said = said[-2000:].partition("\n")[2]  # whole lines
        code = self._process.poll() or 0
        if code < 0:
            said += f"\nkilled by {signal.Signals(-code).name}"
            if said.endswith("SIGSYS"):
                said += ", as sandboxes do that forbid io_uring: try --backend epoll"
        return said.strip() or f"exit code {code}"

    def finish(self) -> None:
        """Wait for its end, and pass on what it wrote to standard error."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            code = self._process.wait(FINISH_TIME)
        except subprocess.TimeoutExpired:
            raise CliError(f"the {self.name} does not end") from None
        if code:
            raise CliError(f"the {self.name} failed at its end:\n{self._last_words()}")
        if self._errors.tell():
            print(f"proactorx: the {self.name} says:\n{self._last_words()}", file=sys.stderr)

    def close(self) -> None:
        """Kill the child."""
        self._process.kill()
        self._process.wait()
        self._reader.join()
        for file in (self._process.stdin, self._process.stdout, self._errors):
            with contextlib.suppress(BrokenPipeError):
                file and file.close()


@contextlib.contextmanager
def child(owner: str, module: str, *args: str) -> Iterator[Child]:
    """Start a child; it must end without an error, and has ended at the end."""
    process = Child(owner, module, *args)
    try:
        yield process
        process.finish()
    finally:
        process.close()


def cpu_of(server: Child) -> float:
    """The CPU seconds that an idle server has used so far."""
    server.ask(do="cpu")
    return float(server.answer()["cpu"])
