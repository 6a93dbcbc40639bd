"""Published schemas, generated from the types."""
