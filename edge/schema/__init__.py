"""What travels: rows, messages, requests, and their limits."""
