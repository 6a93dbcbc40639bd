"""The publish process."""
