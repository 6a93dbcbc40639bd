"""Cells of a slide, each counted once."""
