"""One frame the whole way, and what it is built from."""
