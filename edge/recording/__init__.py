"""Raw frames on disk."""
