"""When frames are taken: schedule and pause, around any source."""
