"""From data to run folder."""
