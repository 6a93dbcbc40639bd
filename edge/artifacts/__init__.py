"""What is trained or measured elsewhere and loaded here."""
