"""Measures what the device then applies, frozen."""
