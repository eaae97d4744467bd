"""The error that ends a command."""

from __future__ import annotations

NO_RICH = "this command draws with rich, which is not installed: pip install 'proactorx[cli]'"


class CliError(Exception):
    """Ends a command with one line on standard error and an exit code (2: the command line is wrong)."""

    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(message)
        self.code = code
