"""Pictures and report pages."""
