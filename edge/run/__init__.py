"""The run process: threads, order, the one fault boundary."""
