"""What every test of this room must leave behind: what those of streams must."""

from transports.conftest import no_descriptor_left, no_silent_error

__all__ = ["no_descriptor_left", "no_silent_error"]
