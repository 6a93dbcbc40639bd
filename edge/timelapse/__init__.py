"""Cells followed from frame to frame."""
