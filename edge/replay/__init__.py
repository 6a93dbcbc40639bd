"""A recording through the same code again."""
