"""Speed, measured as ratios of medians of things that are measured in turns."""
