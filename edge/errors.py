"""Errors that a person can act on."""


class HemascopeError(Exception):
    """An error that names the value, what was expected, and the remedy.

    A process that ends because of it ends with `exit_code`.
    """

    exit_code = 1


class ConfigurationInvalid(HemascopeError):
    """A setting, a file or an option is wrong; starting again will not help."""

    exit_code = 78  # EX_CONFIG of sysexits.h: systemd does not start it again


class FrameRejected(HemascopeError):
    """One frame cannot be examined; the next one perhaps can."""
