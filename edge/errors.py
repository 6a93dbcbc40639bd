"""What can go wrong in a way that a person can act on."""


class HemascopeError(Exception):
    """Says the value, what was expected and the remedy; `exit_code` ends a process."""

    exit_code = 1


class ConfigurationInvalid(HemascopeError):
    """A setting, a file or an option is wrong; starting again will not help."""

    exit_code = 78  # EX_CONFIG of sysexits.h: systemd does not retry it


class FrameRejected(HemascopeError):
    """One frame cannot be examined; the next one may."""
