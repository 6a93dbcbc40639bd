"""Image files by themselves: examine each, scans in tiles, and write what is found."""
