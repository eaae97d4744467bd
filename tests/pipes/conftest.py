"""What every test of this room must leave behind: no open descriptor and no unexplained error."""

from transports.conftest import no_descriptor_left, no_silent_error

__all__ = ["no_descriptor_left", "no_silent_error"]
