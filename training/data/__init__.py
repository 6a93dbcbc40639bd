"""Rows, readers, splits, crops."""
