"""The checks: one module for each part of a device; `registry` lists them."""
