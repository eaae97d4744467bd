"""What every test of this room must leave behind, and the certificates that they share with the streams' tests."""

from transports.conftest import certificates, no_descriptor_left, no_silent_error

__all__ = ["certificates", "no_descriptor_left", "no_silent_error"]
