"""Cameras that Micro-Manager drives."""
