"""Simulated training data."""
