"""How a command says that it cannot go on."""

from __future__ import annotations

NO_RICH = "this command draws with rich, which is not installed: pip install 'proactorx[cli]'"


class CliError(Exception):
    """Ends a command with one line on standard error and an exit code (2: the user can change the command line)."""

    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(message)
        self.code = code
