"""Evaluate and compare bundles, and run studies."""
