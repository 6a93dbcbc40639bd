"""Judge and compare bundles."""
