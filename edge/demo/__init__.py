"""The demonstration: all programs on one machine."""
