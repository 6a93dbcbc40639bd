"""A campaign of random faults between device and archive; see `__main__.py`."""
