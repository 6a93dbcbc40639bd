"""Files that are trained or measured elsewhere and loaded here."""
